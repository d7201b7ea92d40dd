"""Each optimizer for unequal data becomes an older one where what it adds is taken away."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pcode.compression import make_compressor
from pcode.optim import (
    BEER,
    D2,
    DPSGD,
    LEAD,
    SGP,
    AllReduceSGD,
    DecentLaM,
    DecentralizedOptimizer,
    GradientTracking,
    MoTEF,
    ParallelChoco,
    QuasiGlobalSGD,
    RelaySGD,
)
from pcode.topology import Graph, make_graph
from tests.optim.recursions import LR, MOMENTUM, Array, draw, far, local_options, run

Models = Callable[[], Array]


def models(
    kind: type[DecentralizedOptimizer],
    graph: str,
    num_nodes: int,
    *,
    equal: bool = False,
    nesterov: bool = False,
    **options: Any,
) -> Array:
    """The nodes' x after all steps; equal: they start at the same."""
    topology: Graph = make_graph(graph, num_nodes)
    if kind.compresses and "compressor" not in options:
        options |= {"compressor": make_compressor("none"), "consensus_stepsize": 1.0}
    states = run(
        lambda model, node: kind(
            model.parameters(), node, topology, **{**local_options(nesterov), **options}
        ),
        num_nodes,
        start=(lambda _: draw(0)) if equal else draw,
    )
    return states[-1]["x"]


SIGN: dict[str, Any] = {"compressor": make_compressor("sign"), "consensus_stepsize": 0.3}
# Without its momentum, on the complete graph, uncompressed with gamma 1, or alone.
PAIRS: dict[str, tuple[Models, Models]] = {
    "quasi-global momentum of 0 is D-PSGD": (
        partial(models, QuasiGlobalSGD, "torus", 8, momentum=0.0),
        partial(models, DPSGD, "torus", 8, momentum=0.0),
    ),
    "DecentLaM without momentum is D-PSGD": (
        partial(models, DecentLaM, "torus", 8, momentum=0.0),
        partial(models, DPSGD, "torus", 8, momentum=0.0),
    ),
    "DecentLaM of equal nodes on the complete graph is all-reduce SGD": (
        partial(models, DecentLaM, "complete", 4, equal=True),
        partial(models, AllReduceSGD, "complete", 4, equal=True),
    ),
    "D2 on the complete graph is D-PSGD": (
        partial(models, D2, "complete", 4),
        partial(models, DPSGD, "complete", 4),
    ),
    **{
        f"SGP on links both ways of a {graph} is D-PSGD": (
            partial(models, SGP, graph, num_nodes, nesterov=True),
            partial(models, DPSGD, graph, num_nodes, nesterov=True),
        )
        for graph, num_nodes in (("star", 5), ("torus", 8))
    },
    "RelaySGD of two nodes is D-PSGD": (
        partial(models, RelaySGD, "chain", 2),
        partial(models, DPSGD, "chain", 2),
    ),
    "BEER uncompressed, gamma 1, is gradient tracking": (
        partial(models, BEER, "ring", 4),
        partial(models, GradientTracking, "ring", 4),
    ),
    "MoTEF is BEER at (1 - momentum) times the rate": (
        partial(models, MoTEF, "ring", 4, **SIGN),
        partial(models, BEER, "ring", 4, lr=LR * (1 - MOMENTUM), **SIGN),
    ),
    "LEAD uncompressed, gamma and a 1, is exact diffusion": (
        partial(models, LEAD, "ring", 4, copy_share=1.0),
        partial(models, D2, "ring", 4, exact_diffusion=True),
    ),
    **{
        f"{kind.__name__} of one node is local steps": (
            partial(models, kind, "chain", 1, nesterov=True),
            partial(models, DPSGD, "chain", 1, nesterov=True),
        )
        for kind in (D2, GradientTracking, DecentLaM, SGP, RelaySGD, BEER, LEAD)
    },
}


@pytest.mark.parametrize("pair", PAIRS)
def test_they_are_the_same(pair: str) -> None:
    one, other = PAIRS[pair]
    # LEAD sums the rounding of what it is exact without.
    assert far(one(), other()) < (5e-5 if pair.startswith("LEAD") else 1e-5)


def test_compression_makes_the_difference() -> None:
    """The test above could fail: with sign neither is what it is uncompressed."""
    for kind in (BEER, LEAD, ParallelChoco):
        assert far(models(kind, "ring", 4, **SIGN), models(kind, "ring", 4)) > 1e-3
