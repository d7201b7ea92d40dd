"""Every law with every compressor against NumPy steps written from the recursions, in float64.

What a compressor makes of a vector is checked by its own tests. Here NumPy works out what each
node has to compress; that is what the law's compressor was given, to 1e-6, and from what the
compressor made of it NumPy's step gives the law's next state, to 1e-6. From the start on, with
nothing of the law but its messages, NumPy's x after all steps is the law's to 1e-5 (float32's
rounding adds up).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from pcode.communication import Communicator, Simulation
from pcode.compression import COMPRESSORS, make_compressor
from pcode.errors import DivergenceError, UserError
from pcode.layout import Layout
from pcode.optim import (
    DCDPSGD,
    DGC,
    DPSGD,
    ECDPSGD,
    AdamOptions,
    AllReduceSGD,
    DeepSqueeze,
    EFSignSGD,
    Law,
    ParallelChoco,
)
from pcode.topology import Topology, make_topology
from tests.optim.recursions import (
    GAMMA,
    LR,
    NUM_ENTRIES,
    NUM_STEPS,
    WEIGHT_DECAY,
    Array,
    Recorder,
    State,
    Tensors,
    direction,
    draw,
    far,
    gradients,
    local_options,
    local_step,
    run,
    split,
)


class Given(NamedTuple):
    """What a step takes besides the state and the gradients."""

    t: int  # exchanges, from 1
    Q: Callable[[Array], Array]  # n x d
    W: Array
    nesterov: bool


COMPRESSIONS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("sign", {}),
    ("compress_top_k", {"compress_ratio": 0.5}),
    ("compress_top_k", {"compress_ratio": 0.9}),
    ("compress_random_k", {"compress_ratio": 0.5, "is_biased": True}),
    ("compress_random_k", {"compress_ratio": 0.9, "is_biased": False}),
    ("quantize_qsgd", {"quantize_level": 8, "is_biased": True}),
    ("quantize_qsgd", {"quantize_level": 8, "is_biased": False}),
    ("quantize_qsgd", {"quantize_level": 2, "is_biased": True}),
    ("quantize_qsgd", {"quantize_level": 32, "is_biased": True}),
]


def choco(state: State, g: Array, given: Given) -> State:
    hat, s = state["hat"], state["z"] + state["hat"]
    state = local_step(state, g, given.nesterov)
    x = state["x"] + GAMMA * (s - hat)
    q = given.Q(x - hat)
    hat, s = hat + q, s + given.W @ q
    return {**state, "x": x, "hat": hat, "z": s - hat}


def dcd(state: State, g: Array, given: Given) -> State:
    hat, s = state["hat"], state["z"] + state["hat"]
    stepped = local_step(state, g, given.nesterov)
    q = given.Q(s + (stepped["x"] - state["x"]) - state["x"])
    hat, s = hat + q, s + given.W @ q
    return {**stepped, "x": hat, "hat": hat, "z": s - hat}


def ecd(state: State, g: Array, given: Given) -> State:
    t, stepped = given.t, local_step(state, g, given.nesterov)
    x = state["s"] + stepped["x"] - state["x"]
    c = given.Q((1 - t / 2) * state["x"] + (t / 2) * x)
    return {**stepped, "x": x, "last_x": x, "s": (1 - 2 / t) * state["s"] + (2 / t) * (given.W @ c)}


def deep_squeeze(state: State, g: Array, given: Given) -> State:
    state = local_step(state, g, given.nesterov)
    e = state["e"] + state["x"]
    c = given.Q(e)
    mixed = state["x"] + GAMMA * ((given.W - np.eye(len(given.W))) @ c)
    return {**state, "x": mixed, "e": e - c}


def ef_sign(state: State, g: Array, given: Given) -> State:
    d, buf = direction(state, g + WEIGHT_DECAY * state["x"], given.nesterov)
    v = d + state["e"]
    c = given.Q(v)
    return {"x": state["x"] - LR * c.mean(axis=0), "buf": buf, "e": v - c}


def ef_majority(state: State, g: Array, given: Given) -> State:
    d, buf = direction(state, g + WEIGHT_DECAY * state["x"], given.nesterov)
    v = d + state["e"]
    c = given.Q(v)
    voted = np.sign(np.sign(c).sum(axis=0)) * np.abs(c).mean(axis=0)
    return {"x": state["x"] - LR * voted, "buf": buf, "e": v - c}


CLIP_NORM = 2.0


def dgc(state: State, g: Array, given: Given, clip: bool = False, mask: bool = False) -> State:
    g = g + WEIGHT_DECAY * state["x"]
    if clip:
        limit = CLIP_NORM / np.sqrt(len(g))
        rows = []
        for row in g:
            norms = [np.linalg.norm(piece) for piece in split(row)]
            scaled = [
                piece * min(1, limit / (norm + 1e-6))
                for piece, norm in zip(split(row), norms, strict=True)
            ]
            rows.append(np.concatenate(scaled))
        g = np.stack(rows)
    d, buf = direction(state, g, given.nesterov)
    v = d + state["e"]
    q = given.Q(v)
    if mask:
        buf = np.where(q != 0, 0, buf)
    return {
        "x": state["x"] - LR * q.mean(axis=0),
        "buf": buf,
        "e": np.where(q != 0, 0, v),
    }


def same_start(rank: int) -> Array:
    return draw(0)


class Case:
    """A law to run and the step that it has to take."""

    def __init__(
        self,
        law: type[Law],
        step: Callable[..., State],
        *,
        graphs: list[tuple[str, int]],
        start: Callable[[int], Array] = draw,
        compressions: list[tuple[str, dict[str, Any]]] | None = None,
        **options: Any,
    ) -> None:
        self.step, self.graphs, self.start = step, graphs, start
        self.law: Callable[..., Law] = law
        self.centralized = law.centralized
        self.compressions = COMPRESSIONS if compressions is None else compressions
        self.options = options


RINGS = [("ring", 4), ("torus", 8)]
COMPLETE = [("complete", 4), ("complete", 8)]
SPARSE = [each for each in COMPRESSIONS if "compress_ratio" in each[1]]
CASES = {
    "choco": Case(ParallelChoco, choco, graphs=RINGS, consensus_stepsize=GAMMA),
    "dcd": Case(DCDPSGD, dcd, graphs=RINGS, start=same_start),
    "ecd": Case(ECDPSGD, ecd, graphs=RINGS, start=same_start),
    "deep_squeeze": Case(DeepSqueeze, deep_squeeze, graphs=RINGS, consensus_stepsize=GAMMA),
    "ef_sign": Case(EFSignSGD, ef_sign, graphs=COMPLETE, start=same_start),
    "ef_majority": Case(
        EFSignSGD, ef_majority, graphs=COMPLETE, start=same_start, majority_vote=True
    ),
    "dgc": Case(DGC, dgc, graphs=COMPLETE, start=same_start, compressions=SPARSE),
    "dgc_clip_mask": Case(
        DGC,
        partial(dgc, clip=True, mask=True),
        graphs=COMPLETE,
        start=same_start,
        compressions=SPARSE,
        clip_grad=True,
        clip_grad_val=CLIP_NORM,
        mask_momentum=True,
    ),
}
ALL = [
    pytest.param(name, compression, options, graph, id=f"{name}-{compression}-{options}-{graph[1]}")
    for name, case in CASES.items()
    for compression, options in case.compressions
    for graph in case.graphs
]


def replay(made: Array, v: Array) -> Array:
    """What the law's compressors made, whatever is asked."""
    return made


def check_step(
    case: Case, states: list[State], recorders: list[Recorder], W: Array, nesterov: bool
) -> None:
    """Every step, from the law's own state before it, and all of them without it."""
    num_nodes, alone = len(W), states[0]
    for number in range(NUM_STEPS):

        def compress(v: Array, number: int = number) -> Array:
            for rank, recorder in enumerate(recorders):
                # ECD's extrapolation multiplies the rounding of x by t / 2.
                grown = (number + 1) / 2 if case.step is ecd else 1.0
                scale = max(np.abs(v).max(), grown * np.abs(states[number]["x"]).max())
                assert np.abs(recorder.given[number] - v[rank]).max() <= 1e-6 * scale
            return np.stack([recorder.made[number] for recorder in recorders])

        made = np.stack([recorder.made[number] for recorder in recorders])
        g = gradients(number, num_nodes)
        alone = case.step(alone, g, Given(number + 1, partial(replay, made), W, nesterov))
        forced = case.step(states[number], g, Given(number + 1, compress, W, nesterov))
        assert forced.keys() == states[number + 1].keys()
        largest = max(np.abs(v).max() for v in (forced["x"], *(r.made[number] for r in recorders)))
        for name, got in states[number + 1].items():
            # Sums of vectors of the size of x or q: their rounding is those vectors'.
            scale = max(np.abs(forced[name]).max(), largest)
            assert np.abs(got - forced[name]).max() <= 1e-6 * scale, (name, number)
    largest = max(np.abs(state["x"]).max() for state in states)
    assert np.abs(states[-1]["x"] - alone["x"]).max() <= 1e-5 * largest


@pytest.mark.parametrize(("name", "compression", "options", "graph"), ALL)
def test_every_law_with_every_compressor_is_its_recursion(
    name: str, compression: str, options: dict[str, Any], graph: tuple[str, int]
) -> None:
    case, topology = CASES[name], make_topology(*graph)
    assert isinstance(topology, Topology)
    nesterov = graph[1] == 8
    recorders = [Recorder(make_compressor(compression, **options)) for _ in range(graph[1])]
    states = run(
        lambda model, node: case.law(
            model.parameters(),
            node,
            topology,
            compressor=recorders[node.rank],
            seed=5,
            **local_options(nesterov),
            **case.options,
        ),
        graph[1],
        start=case.start,
    )
    check_step(case, states, recorders, topology.matrix, nesterov)
    # Unbiased sparsification may diverge: the steps are right nevertheless.
    assert far(states[-1]["x"], states[0]["x"]) > 0.01
    if case.centralized:
        assert all((x == states[-1]["x"][0]).all() for x in states[-1]["x"])


def test_the_cases_are_all_compressors() -> None:
    assert {compression for compression, _ in COMPRESSIONS} == set(COMPRESSORS)


@pytest.mark.parametrize(
    ("name", "compression", "options", "graph"),
    [each for each in ALL if each.values[0] in ("choco", "deep_squeeze", "dcd")],
)
def test_mixing_leaves_the_mean_alone(
    name: str, compression: str, options: dict[str, Any], graph: tuple[str, int]
) -> None:
    """Without gradients the mean of CHOCO and DeepSqueeze stays, whatever Q does.

    DCD moves its mean by the mean of what compression lost; with hat in the place of x it stays.
    """
    case, topology = CASES[name], make_topology(*graph)
    recorders = [Recorder(make_compressor(compression, **options)) for _ in range(graph[1])]
    states = run(
        lambda model, node: case.law(
            model.parameters(),
            node,
            topology,
            compressor=recorders[node.rank],
            lr=LR,
            **case.options,
        ),
        graph[1],
        start=case.start,
        num_steps=20,
    )
    for number in range(20):
        before, after = states[number]["x"], states[number + 1]["x"]
        moved = -LR * gradients(number, graph[1]).mean(axis=0)
        if name == "dcd":
            lost = [recorder.made[number] - recorder.given[number] for recorder in recorders]
            moved += np.mean(lost, axis=0)
        scale = max(np.abs(after).max(), *(np.abs(r.made[number]).max() for r in recorders))
        assert np.abs(after.mean(axis=0) - before.mean(axis=0) - moved).max() <= 1e-6 * scale


def choco_run(**options: Any) -> list[State]:
    topology = make_topology("ring", 4)
    given = {"compressor": make_compressor("sign"), "consensus_stepsize": GAMMA, **options}
    epoch = given.pop("epoch", lambda step: 0.0)
    return run(
        lambda model, node: ParallelChoco(model.parameters(), node, topology, lr=LR, **given),
        4,
        epoch=epoch,
    )


def test_local_steps_exchange_every_third_time_from_the_epoch_on() -> None:
    states = choco_run(
        local_step=3, turn_on_local_step_from=2, epoch=lambda step: step / 10, momentum=0.9
    )
    exchanged = [
        number
        for number in range(NUM_STEPS)
        if not np.array_equal(states[number]["hat"], states[number + 1]["hat"])
    ]
    assert exchanged == [*range(20), *range(22, NUM_STEPS, 3)]
    for number in set(range(NUM_STEPS)) - set(exchanged):
        before, after = states[number], states[number + 1]
        buf = 0.9 * before["buf"] + gradients(number, 4)
        assert far(after["x"], before["x"] - LR * buf) < 1e-6


def test_local_sgd_on_the_complete_graph_averages_models() -> None:
    topology = make_topology("complete", 4)
    states = run(
        lambda model, node: AllReduceSGD(model.parameters(), node, topology, lr=LR, local_step=5),
        4,
        start=same_start,
    )
    for number in range(NUM_STEPS):
        want = states[number]["x"] - LR * gradients(number, 4)
        if number % 5 == 4:
            want = np.broadcast_to(want.mean(axis=0), want.shape)
        assert far(states[number + 1]["x"], want) < 1e-6


@pytest.mark.parametrize("law", [DCDPSGD, ECDPSGD])
def test_local_steps_of_laws_with_copies(law: type[Law]) -> None:
    """Without compression, three local steps and an exchange are one step of three gradients."""
    topology = make_topology("ring", 4)
    states = run(
        lambda model, node: law(
            model.parameters(),
            node,
            topology,
            lr=LR,
            local_step=3,
            compressor=make_compressor("none"),
        ),
        4,
        start=same_start,
    )
    x = states[0]["x"]
    for number in range(NUM_STEPS // 3):
        moved = sum(gradients(3 * number + index, 4) for index in range(3))
        x = topology.matrix @ x - LR * moved
        assert far(states[3 * number + 3]["x"], x) < 1e-5


ADAM = AdamOptions(beta_1=0.8, beta_2=0.95, eps=1e-4)


def test_an_adam_local_step_is_torch_adam() -> None:
    """D-PSGD with Adam: W times what torch.optim.Adam makes of each node's x."""
    topology = make_topology("ring", 4)
    assert isinstance(topology, Topology)
    states = run(
        lambda model, node: DPSGD(
            model.parameters(), node, topology, lr=LR, weight_decay=WEIGHT_DECAY, adam=ADAM
        ),
        4,
    )
    models = [Tensors(draw(rank)) for rank in range(4)]
    optimizers = [
        torch.optim.Adam(
            model.parameters(), lr=LR, betas=(0.8, 0.95), eps=1e-4, weight_decay=WEIGHT_DECAY
        )
        for model in models
    ]
    for number in range(NUM_STEPS):
        for model, optimizer, values in zip(models, optimizers, gradients(number, 4), strict=True):
            optimizer.zero_grad()
            model.give_gradient(values)
            optimizer.step()
        mixed = topology.matrix @ np.stack([model.flat() for model in models])
        assert far(states[number + 1]["x"], mixed) < 1e-5
        with torch.no_grad():
            for model, row in zip(models, mixed, strict=True):
                for parameter, piece in zip(model.tensors, split(row), strict=True):
                    parameter.copy_(torch.tensor(piece).view_as(parameter))


def test_the_moments_of_adam_start_again_at_an_exchange_where_asked() -> None:
    kept, reset = (
        choco_run(adam=AdamOptions(memory_treatment=treatment), local_step=2)
        for treatment in (None, "reset")
    )
    assert [int(state["adam_steps"][0, 0]) for state in reset[:5]] == [0, 1, 0, 1, 0]
    assert [int(state["adam_steps"][0, 0]) for state in kept[:5]] == [0, 1, 2, 3, 4]
    assert not reset[2]["exp_avg"].any()
    assert kept[2]["exp_avg"].any()


def test_the_warm_up_of_dgc_drops_more_from_epoch_to_epoch() -> None:
    topology = make_topology("complete", 2)
    shares = []

    class Counting(DGC):
        def _recursion(self) -> None:
            before = self.communicator.bytes_sent
            super()._recursion()
            shares.append((self.communicator.bytes_sent - before) / 4)

    run(
        lambda model, node: Counting(
            model.parameters(),
            node,
            topology,
            lr=LR,
            compressor=make_compressor("compress_random_k", compress_ratio=0.9),
            compress_warmup_values=(0.0, 0.5),
            compress_warmup_epochs=3,
        ),
        2,
        start=same_start,
        epoch=lambda step: step / 2,
        num_steps=10,
    )
    half, tenth = 7 + 3 + 1 + 12, 1 + 1 + 1 + 2
    assert shares[::2] == [NUM_ENTRIES] * 2 + [half] * 4 + [tenth] * 4


@pytest.mark.parametrize("law", [DCDPSGD, ECDPSGD])
def test_laws_with_shared_copies_refuse_models_that_differ(law: type[Law]) -> None:
    topology = make_topology("ring", 4)
    with pytest.raises(UserError, match="needs the same model on every node at the start"):
        run(
            lambda model, node: law(
                model.parameters(), node, topology, lr=LR, compressor=make_compressor("sign")
            ),
            4,
        )


@pytest.mark.parametrize(
    ("law", "graph", "options", "match"),
    [
        (EFSignSGD, "ring", {}, "centralized: .* complete"),
        (DGC, "ring", {"compressor": "compress_top_k"}, "centralized"),
        (DGC, "complete", {}, "compress_top_k or compress_random_k"),
        (EFSignSGD, "complete", {"adam": ADAM}, "--local_optimizer sgd"),
        (EFSignSGD, "complete", {"local_step": 2}, "--local_step 1"),
    ],
)
def test_what_cannot_work_is_refused(
    law: type[Law], graph: str, options: dict[str, Any], match: str
) -> None:
    given = {**options, "compressor": make_compressor(options.get("compressor", "sign"))}
    with pytest.raises(UserError, match=match):
        law.refuse(make_topology(graph, 5), **given)


@pytest.mark.parametrize(
    ("law", "compression", "options", "said"),
    [
        (DCDPSGD, "compress_random_k", {"compress_ratio": 0.9, "is_biased": False}, "diverged"),
        (DCDPSGD, "none", {}, None),
        (ECDPSGD, "sign", {}, "16 bits only"),
        (ECDPSGD, "quantize_qsgd", {"quantize_level": 16, "is_biased": False}, None),
        (ECDPSGD, "quantize_qsgd", {"quantize_level": 16}, "--is_biased False"),
        (ParallelChoco, "quantize_qsgd", {"quantize_level": 4, "is_biased": False}, "no contract"),
        (ParallelChoco, "quantize_qsgd", {"quantize_level": 4, "is_biased": True}, None),
        (DeepSqueeze, "compress_random_k", {"is_biased": False}, "no contraction"),
    ],
)
def test_doubts_are_the_papers(
    law: type[Law], compression: str, options: dict[str, Any], said: str | None
) -> None:
    layout = Layout.of_sizes([36_864, 432, 16])
    doubts = law.doubts(make_topology("ring", 8), make_compressor(compression, **options), layout)
    assert ([said in doubt for doubt in doubts] == [True]) if said else doubts == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("compression", "options"), COMPRESSIONS)
def test_what_is_not_finite_names_rank_step_and_tensor(
    compression: str, options: dict[str, Any], bad: float
) -> None:
    topology = make_topology("ring", 4)

    def make(model: nn.Module, node: Communicator) -> Law:
        law = ParallelChoco(
            model.named_parameters(),
            node,
            topology,
            lr=LR,
            consensus_stepsize=GAMMA,
            compressor=make_compressor(compression, **options),
        )
        if node.rank == 2:
            recursion, step = law.local_step, iter(range(NUM_STEPS))

            def poisoned() -> None:
                recursion()
                if next(step) == 3:
                    law.layout.views(law.x)[2].fill_(bad)

            law.local_step = poisoned  # type: ignore[method-assign]
        return law

    with pytest.raises(DivergenceError, match=r"rank 2, step 3: tensor tensors\.2 holds NaN or"):
        run(make, 4)


@pytest.mark.parametrize("name", CASES)
def test_a_restored_law_goes_on_as_if_never_stopped(name: str) -> None:
    case = CASES[name]
    topology = make_topology(*case.graphs[0])

    def node(communicator: Communicator) -> None:
        def start() -> tuple[Tensors, Law]:
            model = Tensors(same_start(0))
            compressor = make_compressor("compress_random_k", compress_ratio=0.5)
            law = case.law(
                model.named_parameters(),
                communicator,
                topology,
                compressor=compressor,
                seed=5,
                **local_options(True),
                **({} if case.centralized else {"local_step": 3}),
                **case.options,
            )
            return model, law

        def train(model: Tensors, law: Law, steps: range) -> None:
            for step in steps:
                law.zero_grad()
                model.give_gradient(gradients(step, 4)[communicator.rank])
                law.step()

        model, law = start()
        train(model, law, range(7))
        kept, x = copy.deepcopy(law.state_dict()), law.x.clone()
        train(model, law, range(7, 20))
        other_model, other = start()
        train(other_model, other, range(3))  # with overlap, a round is under way then
        other.load_state_dict(kept)
        other.x.copy_(x)
        train(other_model, other, range(7, 20))
        want, got = law.state_dict(), other.state_dict()
        assert torch.equal(other.x, law.x)
        assert all(
            torch.equal(got["vectors"][key], want["vectors"][key]) for key in want["vectors"]
        )
        assert not torch.equal(other.x, x)

    Simulation(4).run(node)
