"""Running an optimizer on simulated nodes with given gradients, and what its compressors saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pcode.communication import Communicator, Simulation
from pcode.compression import Compressor, Message
from pcode.optim import DecentralizedOptimizer
from pcode.topology import Graph
from pcode.utils.layout import Layout

Array = npt.NDArray[np.float64]
State = dict[str, Array]  # each n x d

SHAPES = [(3, 5), (7,), (1,), (4, 2, 3)]
SIZES = [15, 7, 1, 24]
NUM_ENTRIES = sum(SIZES)
NUM_STEPS = 50
LR, MOMENTUM, WEIGHT_DECAY, GAMMA = 0.05, 0.9, 1e-2, 0.3


def split(vector: Array) -> list[Array]:
    return np.split(vector, np.cumsum(SIZES)[:-1])


def draw(*numbers: int) -> Array:
    values = np.random.default_rng(numbers).normal(size=NUM_ENTRIES)
    return values.astype(np.float32).astype(np.float64)


def gradient(step: int, rank: int) -> Array:
    """The gradient that node `rank` gets at `step`, whatever its model."""
    return draw(step, rank, 11)


def gradients(step: int, num_nodes: int) -> Array:
    return np.stack([gradient(step, rank) for rank in range(num_nodes)])


class Tensors(nn.Module):
    """Some parameters without a forward pass."""

    def __init__(self, start: Array) -> None:
        super().__init__()
        self.tensors = nn.ParameterList(
            torch.tensor(piece.reshape(shape), dtype=torch.float32)
            for piece, shape in zip(split(start), SHAPES, strict=True)
        )

    def give_gradient(self, values: Array) -> None:
        for parameter, piece in zip(self.tensors, split(values), strict=True):
            given = torch.tensor(piece, dtype=torch.float32).view_as(parameter)
            parameter.grad = given if parameter.grad is None else parameter.grad.add_(given)

    def flat(self) -> Array:
        pieces = [parameter.detach().numpy().ravel() for parameter in self.tensors]
        return np.concatenate(pieces).astype(np.float64)


class Recorder(Compressor):
    """A compressor that also keeps what it was given and what it made of it, step by step."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor, self.is_sparse = compressor, compressor.is_sparse
        self.given: list[Array] = []
        self.made: list[Array] = []

    @property
    def options(self) -> dict[str, Any]:
        return self.compressor.options

    def message_bytes(self, layout: Layout) -> int:
        return self.compressor.message_bytes(layout)

    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        self.compressor.encode(layout, value, reference, message)
        made = torch.zeros_like(value)
        self.compressor.accumulate(layout, [message], [made], [[1.0]])
        wide = value.double() - (0 if reference is None else reference.double())
        self.given.append(wide.numpy())
        self.made.append(made.double().numpy())

    def accumulate(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
    ) -> None:
        self.compressor.accumulate(layout, messages, targets, weights)

    def contraction(self, layout: Layout) -> float:
        return self.compressor.contraction(layout)


def warm_up(step: int) -> float:
    """0 for two steps, then rising; and so again."""
    return LR * min(1.0, max(0, step % 20 - 1) / 10)


def local_options(nesterov: bool) -> dict[str, Any]:
    return {"lr": LR, "momentum": MOMENTUM, "nesterov": nesterov, "weight_decay": WEIGHT_DECAY}


def run(
    make: Callable[[nn.Module, Communicator], DecentralizedOptimizer],
    num_nodes: int,
    *,
    start: Callable[[int], Array] = draw,
    epoch: Callable[[int], float] = lambda step: 0.0,
    rate: Callable[[int], float] | None = None,
    num_steps: int = NUM_STEPS,
    of_edges: bool = False,
) -> list[State]:
    """x and the optimizer's other vectors of all nodes, before the first step and after each.

    Args:
        start: the initial x of a rank.
        epoch: the fractional epoch of a step.
        rate: of a step, where it is not the same in all.
        of_edges: also the vectors that only some of the nodes have, 0 where the others would be.
    """

    def node(communicator: Communicator) -> list[dict[str, Array]]:
        model = Tensors(start(communicator.rank))
        optimizer = make(model, communicator)

        def state() -> dict[str, Array]:
            vectors = optimizer.state_dict()["vectors"]
            return {"x": model.flat(), **{k: v.double().numpy().copy() for k, v in vectors.items()}}

        states = [state()]
        for step in range(num_steps):
            optimizer.epoch = epoch(step)
            if rate is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate(step)
            optimizer.zero_grad()
            model.give_gradient(gradient(step, communicator.rank))
            optimizer.step()
            states.append(state())
        return states

    nodes = Simulation(num_nodes).run(node)
    shapes = {name: v.shape for states in nodes for name, v in states[0].items()}
    # Vectors that belong to edges are other nodes' by other names.
    names = [name for name in shapes if of_edges or all(name in states[0] for states in nodes)]
    return [
        {
            name: np.stack([states[step].get(name, np.zeros(shapes[name])) for states in nodes])
            for name in names
        }
        for step in range(num_steps + 1)
    ]


def direction(state: State, g: Array, nesterov: bool) -> tuple[Array, Array]:
    """d and the new buf, of a g that holds the weight decay already."""
    buf = MOMENTUM * state["buf"] + g
    return (g + MOMENTUM * buf if nesterov else buf), buf


def local_step(state: State, g: Array, nesterov: bool, lr: float = LR) -> State:
    """x - lr d and the new buf."""
    d, buf = direction(state, g + WEIGHT_DECAY * state["x"], nesterov)
    return {**state, "x": state["x"] - lr * d, "buf": buf}


def far(got: Array, want: Array) -> float:
    """The largest difference, as a share of the largest value."""
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))


def check(
    states: list[State], step: Callable[..., State], rounded: Mapping[str, float] | None = None
) -> None:
    """Each step, from the optimizer's own state to 1e-6 and all of them alone to 1e-5.

    Args:
        rounded: vectors whose rounding is that of x, times a factor.
    """
    num_nodes = len(states[0]["x"])
    zeros = {name: np.zeros_like(value) for name, value in states[0].items()}
    alone = {**zeros, "x": np.stack([draw(rank) for rank in range(num_nodes)])}
    assert all(np.array_equal(states[0][name], alone[name]) for name in alone)
    for number in range(NUM_STEPS):
        g = gradients(number, num_nodes)
        forced, alone = step(states[number], g), step(alone, g)
        for name, got in states[number + 1].items():
            # z is a difference of vectors of the size of x: its rounding is theirs.
            of_x = np.abs(forced["x"]).max() * (rounded or {}).get(name, 1.0)
            scale = max(np.abs(forced[name]).max(), of_x)
            assert np.abs(got - forced[name]).max() <= 1e-6 * scale, (name, number)
    assert far(states[-1]["x"], alone["x"]) < 1e-5
    assert far(states[-1]["x"], states[0]["x"]) > 0.1


def plain(
    optimizer: type[DecentralizedOptimizer], topology: Graph, nesterov: bool, **options: Any
) -> list[State]:
    """x and the vectors of an optimizer that sends whole vectors."""
    return run(
        lambda model, node: optimizer(
            model.parameters(), node, topology, **{**local_options(nesterov), **options}
        ),
        topology.num_nodes,
    )
