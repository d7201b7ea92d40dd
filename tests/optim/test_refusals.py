"""What optimizers refuse, warn of, or cannot go on with."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pcode.communication import Communicator
from pcode.compression import make_compressor
from pcode.optim import (
    DCDPSGD,
    DGC,
    ECDPSGD,
    OPTIMIZERS,
    AdamOptions,
    DecentralizedOptimizer,
    DeepSqueeze,
    EFSignSGD,
    ParallelChoco,
    optimizer_class,
)
from pcode.optim.sgd_update import SGDUpdate
from pcode.topology import make_graph, make_topology
from pcode.utils.errors import DivergenceError, UserError
from pcode.utils.layout import Layout
from tests.optim.optimizers_by_hand import COMPRESSIONS
from tests.optim.recursions import GAMMA, LR, run


@pytest.mark.parametrize("optimizer", [DCDPSGD, ECDPSGD])
def test_optimizers_with_shared_copies_refuse_models_that_differ(
    optimizer: type[DecentralizedOptimizer],
) -> None:
    topology = make_topology("ring", 4)
    with pytest.raises(UserError, match="needs the same model on every node at the start"):
        run(
            lambda model, node: optimizer(
                model.parameters(), node, topology, lr=LR, compressor=make_compressor("sign")
            ),
            4,
        )


@pytest.mark.parametrize(
    ("optimizer", "graph", "options", "match"),
    [
        (EFSignSGD, "ring", {}, "centralized: .* complete"),
        (DGC, "ring", {"compressor": "compress_top_k"}, "centralized"),
        (DGC, "complete", {}, "compress_top_k or compress_random_k"),
        (EFSignSGD, "complete", {"adam": AdamOptions()}, "--local_optimizer sgd"),
        (EFSignSGD, "complete", {"local_step": 2}, "--local_step 1"),
    ],
)
def test_what_cannot_work_is_refused(
    optimizer: type[DecentralizedOptimizer], graph: str, options: dict[str, Any], match: str
) -> None:
    given = {**options, "compressor": make_compressor(options.get("compressor", "sign"))}
    with pytest.raises(UserError, match=match):
        optimizer.validate(make_topology(graph, 5), **given)


@pytest.mark.parametrize(
    ("graph", "flags"), [("random_matching", {}), ("ring", {"drop_messages": 0.1})]
)
def test_a_refusal_names_all_that_do(graph: str, flags: dict[str, Any]) -> None:
    given, able, said = make_graph(graph, 8, 6, flags), set(), set()
    for name in OPTIMIZERS.keys() - {"relay"}:  # which asks for a tree besides
        try:
            optimizer_class(name, given).validate(given)
            able.add(name)
        except UserError as error:
            said.add(str(error))
    (message,) = said
    assert able == set(re.findall(r"\w+", message)) & (OPTIMIZERS.keys() - {"relay"})


@pytest.mark.parametrize(
    ("optimizer", "compression", "options", "said"),
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
    optimizer: type[DecentralizedOptimizer],
    compression: str,
    options: dict[str, Any],
    said: str | None,
) -> None:
    layout = Layout.of_sizes([36_864, 432, 16])
    warnings = optimizer.warnings(
        make_topology("ring", 8), make_compressor(compression, **options), layout
    )
    assert ([said in warning for warning in warnings] == [True]) if said else warnings == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(("compression", "options"), COMPRESSIONS)
def test_what_is_not_finite_names_rank_step_and_tensor(
    compression: str, options: dict[str, Any], bad: float
) -> None:
    topology = make_topology("ring", 4)

    def make(model: nn.Module, node: Communicator) -> DecentralizedOptimizer:
        optimizer = ParallelChoco(
            model.named_parameters(),
            node,
            topology,
            lr=LR,
            consensus_stepsize=GAMMA,
            compressor=make_compressor(compression, **options),
        )
        if node.rank == 2:
            step = optimizer.step

            def poisoned() -> None:
                if optimizer.num_steps == 3:
                    optimizer.layout.views(optimizer.x)[2].fill_(bad)
                step()

            optimizer.step = poisoned  # type: ignore[method-assign,assignment]
        return optimizer

    with pytest.raises(DivergenceError, match=r"rank 2, step 3: tensor tensors\.2 holds NaN or"):
        run(make, 4)


def test_a_device_without_kernels_is_refused() -> None:
    x, buf, z, gradient = torch.zeros(4, 3, device="meta")
    coefficients = np.ones((1, 5), np.float32)
    update = SGDUpdate(Layout.of_sizes([3]), x, buf, z, [gradient], coefficients)
    with pytest.raises(UserError, match="no kernel for device meta"):
        update()
