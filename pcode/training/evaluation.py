"""How good the models are: every node's own, the averaged one, and how far they are apart."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from pcode.communication import Communicator
from pcode.datasets import Dataset
from pcode.errors import DivergenceError

EVALUATION_BATCH_SIZE = 512


@dataclass(frozen=True)
class Evaluation:
    """Results on the whole test set, the same on every node.

    Attributes:
        test_top1_per_node: %, in the order of ranks.
        test_loss: mean cross-entropy over nodes and samples.
        averaged_model_test_top1: % of the averaged model, or None where it was not asked for.
        consensus_distance: sqrt(mean_i ||x_i - mean||^2), or None where it was not asked for.
    """

    test_top1_per_node: list[float]
    test_loss: float
    averaged_model_test_top1: float | None
    consensus_distance: float | None

    @property
    def test_top1(self) -> float:
        """%, mean over nodes."""
        return sum(self.test_top1_per_node) / len(self.test_top1_per_node)


@torch.no_grad()
def _count(model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """[correct predictions, summed loss], float64."""
    training = model.training
    model.eval()
    correct, loss = 0, 0.0
    for x, y in zip(
        inputs.split(EVALUATION_BATCH_SIZE), targets.split(EVALUATION_BATCH_SIZE), strict=True
    ):
        outputs = model(x)
        correct += int((outputs.argmax(dim=1) == y).sum())
        loss += float(functional.cross_entropy(outputs, y, reduction="sum"))
    model.train(training)
    return torch.tensor([correct, loss], dtype=torch.float64)


@torch.no_grad()
def average_model(model: nn.Module, communicator: Communicator) -> None:
    """Give every node the mean of the nodes' parameters and of their running statistics.

    In the order of ranks, so that every backend gives the same bits.
    """
    tensors = [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    communicator.average(flat)
    pieces = flat.split([tensor.numel() for tensor in tensors])
    for tensor, piece in zip(tensors, pieces, strict=True):
        tensor.copy_(piece.view_as(tensor))


@torch.no_grad()
def _consensus_distance(model: nn.Module, averaged: nn.Module, communicator: Communicator) -> float:
    squared = torch.zeros(1, dtype=torch.float64)
    for own, mean in zip(model.parameters(), averaged.parameters(), strict=True):
        squared += torch.linalg.vector_norm(own - mean, dtype=torch.float64).square()
    communicator.average(squared)
    return math.sqrt(float(squared))


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    communicator: Communicator,
    *,
    averaged: bool,
    consensus: bool,
) -> Evaluation:
    """Evaluate on every node; all nodes call it together.

    The averaged model is evaluated once: each node takes a share of the test set.

    Args:
        averaged: evaluate the averaged model as well.
        consensus: measure the consensus distance as well.

    Raises:
        DivergenceError: on every node, where the test loss is not finite.
    """
    counts = communicator.all_gather(_count(model, dataset.test_inputs, dataset.test_targets))
    num_samples = len(dataset.test_targets)
    averaged_top1 = distance = None
    if averaged or consensus:
        mean_model = copy.deepcopy(model)
        average_model(mean_model, communicator)
        if averaged:
            mine = slice(communicator.rank, None, communicator.num_nodes)
            count = _count(mean_model, dataset.test_inputs[mine], dataset.test_targets[mine])
            shares = communicator.all_gather(count)
            averaged_top1 = 100 * sum(float(share[0]) for share in shares) / num_samples
        if consensus:
            distance = _consensus_distance(model, mean_model, communicator)
    test_loss = sum(float(count[1]) for count in counts) / num_samples / len(counts)
    if not math.isfinite(test_loss):
        raise DivergenceError(f"the test loss, mean over nodes, is {test_loss}")
    return Evaluation(
        test_top1_per_node=[100 * float(count[0]) / num_samples for count in counts],
        test_loss=test_loss,
        averaged_model_test_top1=averaged_top1,
        consensus_distance=distance,
    )
