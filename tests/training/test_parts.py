"""Nodes of several simulated processes beside nodes of one: what they share, they share exactly."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch

from pcode.communication import Simulation, by_nodes
from pcode.config import make_config
from pcode.datasets import Batches, Dataset
from pcode.models import normalization_parameters
from pcode.training.evaluation import evaluate
from pcode.training.node import Node
from pcode.training.planning import make_plan
from pcode.training.tasks import TASKS
from pcode.utils.errors import CommunicationError

Result = TypeVar("Result")
NUM_STEPS = 5
# Neither compression nor augmentation, which would make something else of roundings and parts.
PLAIN: dict[str, Any] = {"optimizer": "sgd", "arch": "mlp", "n_mpi_process": 3}
TEXT: dict[str, Any] = PLAIN | {
    **{"data": "synthetic:text:20:4000", "arch": "rnn_lm", "rnn_n_hidden": 8, "batch_size": 4},
    **{"rnn_bptt_len": 9, "lr": 2.0},
}
IMAGES: dict[str, Any] = PLAIN | {"data": "synthetic:3x8x8:4:200", "arch": "resnet8"}


def on_nodes(
    flags: dict[str, Any], num_parts: int, use: Callable[[Node], Result]
) -> list[list[Result]]:
    """What `use` gives on each process of each node of a run."""
    plan = make_plan(make_config(backend="sim", num_threads=1, n_sub_process=num_parts, **flags))
    found = Simulation(plan.config.launch.num_processes).run(
        lambda process: use(Node(plan, by_nodes(process, num_parts, 1.0)))
    )
    return [found[first : first + num_parts] for first in range(0, len(found), num_parts)]


def train(node: Node) -> list[float]:
    """A few steps; what the process adds to the loss of each."""
    losses = [loss for _ in range(NUM_STEPS) for loss in node.train_step(node.batches_ahead())]
    node.finish()
    return losses


@pytest.mark.parametrize("num_parts", [2, 3])
@pytest.mark.parametrize(
    "flags",
    [
        PLAIN | {"batch_size": 24},
        PLAIN | {"batch_size": 24, "clip_grad": True, "clip_grad_val": 0.1, "local_step": 2},
        PLAIN | {"batch_size": 24, "graph_topology": "complete", "weight_decay": 0.01},
        PLAIN | {"batch_size": 600, "partition_data": "dirichlet:.3:7"},
        TEXT | {"batch_size": 6},
    ],
    ids=["D-PSGD", "clipped", "all-reduce", "parts of unequal size", "language"],
)
def test_a_node_trains_as_one(flags: dict[str, Any], num_parts: int) -> None:
    def use(node: Node) -> tuple[torch.Tensor, list[float], int]:
        losses = train(node)
        return node.optimizer.x.clone(), losses, node.communicator.bytes_sent

    whole, split = on_nodes(flags, 1, use), on_nodes(flags, num_parts, use)
    for ((x, losses, sent),), parts in zip(whole, split, strict=True):
        assert all(torch.equal(part[0], parts[0][0]) for part in parts)
        assert torch.allclose(parts[0][0], x, rtol=0, atol=1e-5)
        summed = [sum(step) for step in zip(*(part[1] for part in parts), strict=True)]
        assert summed == pytest.approx(losses, abs=1e-5)
        assert {part[2] for part in parts} == {sent}


def test_each_process_draws_its_own_and_the_first_what_a_whole_node_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = TASKS["classification"]
    forward, seeds = task.forward, []

    def watched(*arguments: Any) -> tuple[torch.Tensor, Any]:
        seeds.append(torch.default_generator.initial_seed())  # what dropout draws from
        return forward(*arguments)

    monkeypatch.setitem(TASKS, "classification", dataclasses.replace(task, forward=watched))
    flags = PLAIN | {"batch_size": 24}
    on_nodes(flags, 1, train)
    whole, seeds[:] = set(seeds), []
    on_nodes(flags, 3, train)
    assert len(whole) == 3 * NUM_STEPS
    assert len(set(seeds)) == 3 * 3 * NUM_STEPS
    assert whole < set(seeds)


def test_running_statistics_are_averaged_and_parameters_are_not_touched() -> None:
    def use(node: Node) -> tuple[torch.Tensor, torch.Tensor, bool]:
        def statistics() -> torch.Tensor:
            return torch.cat([b.flatten() for b in node.model.buffers() if b.is_floating_point()])

        assert normalization_parameters(node.model)
        train(node)
        before, x = statistics(), node.optimizer.x.clone()
        node.average_statistics()
        return before, statistics(), torch.equal(x, node.optimizer.x)

    for parts in on_nodes(IMAGES, 2, use):
        own = torch.stack([before for before, _, _ in parts])
        assert not torch.equal(own[0], own[1])
        for _, after, untouched in parts:
            assert torch.allclose(after, own.mean(dim=0))
            assert untouched


@pytest.mark.parametrize("flags", [PLAIN, TEXT], ids=["digits", "text"])
def test_an_evaluation_is_shared(flags: dict[str, Any]) -> None:
    counted: list[int] = []

    class Counted(Dataset):
        """The test set; how much of it each process reads."""

        def __init__(self, dataset: Dataset) -> None:
            self.dataset, self.task = dataset, dataset.task

        def read(self, *_: Any) -> Batches:
            raise NotImplementedError

        def test_batches(self, part: int = 0, num_parts: int = 1) -> Batches:
            for inputs, targets in self.dataset.test_batches(part, num_parts):
                counted.append(targets.numel())
                yield inputs, targets

    def use(node: Node) -> tuple[list[float], float, float | None]:
        train(node)
        found = evaluate(
            node.model,
            Counted(node.plan.dataset),
            node.communicator,
            averaged=True,
            consensus=False,
        )
        return found.per_node, found.test_loss, found.averaged_model

    (whole,), *_ = on_nodes(flags, 1, use)
    of_one, counted[:] = sum(counted), []
    split = on_nodes(flags, 2, use)
    assert sum(counted) == of_one
    assert all(part == split[0][0] for parts in split for part in parts)
    per_node, test_loss, averaged = split[0][0]
    assert per_node == pytest.approx(whole[0], abs=1e-3)
    assert test_loss == pytest.approx(whole[1], abs=1e-5)
    assert averaged == pytest.approx(whole[2], abs=1e-3)


def test_what_is_carried_is_kept_for_the_whole_batch() -> None:
    def use(node: Node) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        train(node)
        state = node.state_dict()
        own = [tensor.detach() for tensor in node.carried]
        node.carried = None
        node.load_state_dict(state)
        assert all(map(torch.equal, node.carried, own))
        return state["carried"], own

    whole, split = on_nodes(TEXT, 1, use), on_nodes(TEXT, 2, use)
    for ((_, carried),), parts in zip(whole, split, strict=True):
        for kept, _ in parts:
            assert [tensor.shape for tensor in kept] == [tensor.shape for tensor in carried]
            assert all(
                torch.allclose(one, other, atol=1e-5)
                for one, other in zip(kept, carried, strict=True)
            )


def test_processes_that_have_come_apart_are_an_error() -> None:
    def use(node: Node) -> None:
        if node.communicator.process == 3:
            node.optimizer.x[0] += 1
        node.finish()

    with pytest.raises(
        CommunicationError, match="rank 1, step 0: its processes hold different parameters"
    ):
        on_nodes(PLAIN, 2, use)
