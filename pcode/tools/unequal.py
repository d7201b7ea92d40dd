"""Unequal data at its smallest: which optimizer comes to the common optimum, and at what cost.

python -m pcode.tools.unequal --steps 4000 --picture errors.png

Eight nodes have a least-squares problem of ten unknowns each, f_i(x) = 1/2 |A_i x - b_i|^2, with
optima far apart, exact gradients (--noise: stochastic ones) and constant rates: .1 / L, L the
largest curvature, and a tenth of that with momentum .9, which goes as far. What is left of the
distance of their models to the optimum of all tells whether an optimizer is exact or biased.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from pcode.communication import Communicator, Simulation
from pcode.compression import make_compressor
from pcode.optim import optimizer_class
from pcode.tools.command import FORMATS, Parser, check_writable, tool
from pcode.topology import make_graph
from pcode.topology.base import Matrix
from pcode.utils.errors import DivergenceError, NotFiniteError, UserError
from pcode.utils.seeding import derive_seed
from pcode.utils.tables import markdown

NUM_NODES, NUM_UNKNOWNS = 8, 10
# How far the nodes' matrices are from each other, and their optima.
MATRIX_SPREAD, OPTIMUM_SPREAD = 0.4, 3.0
# Of the largest curvature's inverse.
RATE, SLOW_RATE = 0.1, 0.01
RECORDS = 200


@dataclass(frozen=True)
class Method:
    """An optimizer as it is tried.

    Attributes:
        compressor: its name and options; None: whole vectors.
        rate: of the inverse of the largest curvature.
    """

    title: str
    optimizer: str
    graph: str = "ring"
    options: Mapping[str, Any] = field(default_factory=dict)
    compressor: tuple[str, Mapping[str, Any]] | None = None
    rate: float = RATE


SIGN: tuple[str, Mapping[str, Any]] = ("sign", {})
TOP = ("compress_top_k", {"compress_ratio": 0.8})
UNBIASED = ("quantize_qsgd", {"quantize_level": 2, "is_biased": False})
FINE = ("quantize_qsgd", {"quantize_level": 8, "is_biased": False})
MOMENTUM = {"momentum": 0.9}
GAMMA = {"consensus_stepsize": 0.1}
METHODS = (
    Method("all-reduce SGD", "sgd", "complete"),
    Method("all-reduce SGD, 5 local steps", "sgd", "complete", options={"local_step": 5}),
    Method("D-PSGD", "sgd"),
    Method("D-PSGD, momentum", "sgd", options=MOMENTUM, rate=SLOW_RATE),
    Method("quasi-global momentum", "decentralized_qg_sgd", options=MOMENTUM, rate=SLOW_RATE),
    Method("DecentLaM, momentum", "decentlam", options=MOMENTUM, rate=SLOW_RATE),
    Method("D2", "d2"),
    Method("exact diffusion", "d2", options={"exact_diffusion": True}),
    Method("gradient tracking", "gradient_tracking"),
    Method("Momentum Tracking", "gradient_tracking", options=MOMENTUM, rate=SLOW_RATE),
    Method("SGP", "sgp", "directed_exponential"),
    Method("RelaySGD", "relay", "chain"),
    Method("PowerGossip", "power_gossip"),
    Method("CHOCO, sign", "parallel_choco", options=GAMMA, compressor=SIGN),
    Method("CHOCO, top 2 of 10", "parallel_choco", options=GAMMA, compressor=TOP),
    Method("BEER, sign", "beer", options=GAMMA, compressor=SIGN),
    Method("BEER, top 2 of 10", "beer", options=GAMMA, compressor=TOP),
    Method("MoTEF, sign", "motef", options=GAMMA | MOMENTUM, compressor=SIGN),
    Method("MoTEF, top 2 of 10", "motef", options=GAMMA | MOMENTUM, compressor=TOP),
    Method("LEAD, qsgd 2", "lead", options={"consensus_stepsize": 0.5}, compressor=UNBIASED),
    Method("DeepSqueeze, sign", "deep_squeeze", options=GAMMA, compressor=SIGN),
    Method("DCD-PSGD, sign", "dcd_psgd", compressor=SIGN),
    Method("ECD-PSGD, qsgd 8", "ecd_psgd", compressor=FINE),
    Method("AdaGossip, sign", "ada_gossip", options=GAMMA, compressor=SIGN),
    Method("EF-SignSGD", "ef_sign_sgd", "complete", compressor=SIGN),
    Method("DGC, top 2 of 10", "dgc", "complete", compressor=TOP),
)


class Problem:
    """The nodes' problems and their common optimum.

    Attributes:
        curvatures, constants: of node i's gradient, H_i x - c_i.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        draw, shape = np.random.default_rng(seed), (NUM_NODES, NUM_UNKNOWNS)
        A = np.eye(NUM_UNKNOWNS) + MATRIX_SPREAD * draw.normal(size=(*shape, NUM_UNKNOWNS))
        b = OPTIMUM_SPREAD * draw.normal(size=shape)
        self.curvatures: Matrix = A.transpose(0, 2, 1) @ A
        self.constants: Matrix = np.einsum("nij,ni->nj", A, b)
        self.optimum = np.linalg.solve(self.curvatures.sum(axis=0), self.constants.sum(axis=0))
        self.largest_curvature = float(np.linalg.eigvalsh(self.curvatures).max())

    def error(self, models: Matrix) -> float:
        """Return the distance of the nodes' models to the optimum, of its length."""
        distances = np.linalg.norm(models - self.optimum, axis=1)
        return float(np.sqrt(np.mean(distances**2)) / np.linalg.norm(self.optimum))


@dataclass(frozen=True)
class Course:
    """What came of a method.

    Attributes:
        errors: after each of `steps`; NaN once it has diverged.
        step_bytes: sent by a node in a step, on average over nodes and steps, with whole vectors in
            float32.
    """

    method: Method
    steps: list[int]
    errors: list[float]
    step_bytes: float


def _optimizer(method: Method, node: Communicator, x: nn.Parameter, lr: float) -> Any:
    """Return the optimizer of a node, of the parameter's type of numbers."""
    graph, options = make_graph(method.graph, NUM_NODES), dict(method.options)
    kind = optimizer_class(method.optimizer, graph)
    if method.compressor is not None:
        name, its_own = method.compressor
        options["compressor"] = make_compressor(name, **its_own)
    typed = type(kind.__name__, (kind,), {"dtype": x.dtype})
    return typed([x], node, graph, lr=lr, **options)


def follow(method: Method, problem: Problem, num_steps: int, noise: float = 0.0) -> Course:
    """Try a method, in float64 but for kernels of float32 (compressors', PowerGossip's).

    The noise is the deviation of what is added to each entry of a gradient.
    """
    lr = method.rate / problem.largest_curvature
    is_single = method.compressor is not None or method.optimizer == "power_gossip"
    dtype = torch.float32 if is_single else torch.float64
    recorded = sorted({round(each) for each in np.geomspace(1, num_steps, RECORDS)})
    models: dict[int, dict[int, Matrix]] = {step: {} for step in recorded}

    def node(communicator: Communicator) -> int:
        rank = communicator.rank
        draws = np.random.default_rng(derive_seed(problem.seed, "noise", rank))
        H, c = (
            torch.from_numpy(each[rank]).to(dtype)
            for each in (problem.curvatures, problem.constants)
        )
        x = nn.Parameter(torch.zeros(NUM_UNKNOWNS, dtype=dtype))
        optimizer = _optimizer(method, communicator, x, lr)
        for step in range(1, num_steps + 1):
            x.grad = H @ x.detach() - c
            if noise:
                x.grad += torch.from_numpy(noise * draws.normal(size=NUM_UNKNOWNS)).to(dtype)
            optimizer.step()
            if step in models:
                models[step][rank] = x.detach().double().numpy().copy()
        optimizer.finish()
        return communicator.bytes_sent

    try:
        sent = sum(Simulation(NUM_NODES).run(node)) * 4 / dtype.itemsize
    except (DivergenceError, NotFiniteError):
        sent = math.nan
    found = [
        problem.error(np.stack([of_nodes[rank] for rank in range(NUM_NODES)]))
        if len(of_nodes) == NUM_NODES
        else math.nan
        for of_nodes in models.values()
    ]
    return Course(method, recorded, found, sent / NUM_NODES / num_steps)


def table(courses: Sequence[Course]) -> list[str]:
    """Write a Markdown table."""
    rows = [["optimizer", "graph", "rate x L", "error", "bytes a step"]]
    for each in courses:
        figures = (f"{each.method.rate:g}", f"{each.errors[-1]:.1e}", f"{each.step_bytes:.0f}")
        rows.append([each.method.title, each.method.graph, *figures])
    return markdown(rows, {"optimizer", "graph"})


def draw(courses: Sequence[Course], path: Path) -> None:
    """Draw two panels: error by step and by bytes."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for number, each in enumerate(courses):
        dashes = ("-", "--", ":")[number // 10 % 3]
        for panel, unit in zip(panels, (1.0, each.step_bytes), strict=True):
            panel.plot(
                [unit * step for step in each.steps],
                each.errors,
                color=f"C{number % 10}",
                linestyle=dashes,
                label=each.method.title,
            )
    for panel, label in zip(panels, ("step", "bytes sent by a node"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel=label)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("distance to the common optimum")
    figure.legend(
        handles=panels[0].get_lines(), loc="outside right upper", frameon=False, fontsize="small"
    )
    figure.savefig(path, dpi=150)


@tool("unequal")
def main(arguments: Sequence[str]) -> None:
    """Try all methods."""
    parser = Parser("python -m pcode.tools.unequal", __doc__)
    parser.add_argument("--steps", type=int, default=4000, help="[4000]")
    noise = "deviation of what is added to each entry of a gradient [0]"
    parser.add_argument("--noise", type=float, default=0.0, help=noise)
    parser.add_argument("--manual_seed", type=int, default=0, help="of the nodes' problems [0]")
    parser.add_argument("--picture", type=Path, help="file for a picture (.png, .pdf, .svg)")
    options = parser.parse_args(arguments)
    for name, least in (("steps", 1), ("noise", 0), ("manual_seed", 0)):
        if not least <= (value := getattr(options, name)) < math.inf:
            raise UserError(f"--{name} {value}: must be at least {least}, and finite")
    check_writable("picture", options.picture, FORMATS)
    torch.set_num_threads(1)
    problem = Problem(options.manual_seed)
    courses = [follow(method, problem, options.steps, options.noise) for method in METHODS]
    print(*table(courses), sep="\n")
    if options.picture is not None:
        draw(courses, options.picture)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
