"""Every optimizer with every compressor against the contract, and what is particular to some."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pcode.compression import COMPRESSORS, make_compressor
from pcode.topology import make_topology
from tests.optim.optimizer_contract import check_recursion, check_restored
from tests.optim.optimizers_by_hand import CASES, COMPRESSIONS
from tests.optim.recursions import LR, Recorder, gradients, run
from tests.support.pairwise import cover

# By default every optimizer with every compressor, on one of its graphs.
BY_DEFAULT = set(cover(len(CASES), len(COMPRESSIONS), 2))
ALL = [
    pytest.param(
        *(name, compression, options, graph),
        id=f"{name}-{compression}-{options}-{graph[1]}",
        marks=[] if (optimizer, form, size) in BY_DEFAULT else [pytest.mark.slow],
    )
    for optimizer, (name, case) in enumerate(CASES.items())
    for form, (compression, options) in enumerate(COMPRESSIONS)
    if (compression, options) in case.compressions
    for size, graph in enumerate(case.graphs)
]


@pytest.mark.parametrize(("name", "compression", "options", "graph"), ALL)
def test_every_optimizer_with_every_compressor_is_its_recursion(
    name: str, compression: str, options: dict[str, Any], graph: tuple[str, int]
) -> None:
    check_recursion(CASES[name], compression, options, graph)


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
        lambda model, node: case.optimizer(
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


@pytest.mark.parametrize("name", CASES)
def test_a_restored_optimizer_goes_on_as_if_never_stopped(name: str) -> None:
    check_restored(CASES[name])
