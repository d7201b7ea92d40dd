"""How good the models are: every node's own, the averaged one, and how far they are apart."""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from pcode.communication import Communicator
from pcode.communication.gathering import average
from pcode.datasets import Batch, Dataset
from pcode.training.tasks import TASKS, Task, autocast, cross_entropy
from pcode.utils.devices import to_device
from pcode.utils.errors import DivergenceError


@dataclass(frozen=True)
class Evaluation:
    """Results on the whole test set, the same on every node.

    Attributes:
        per_node: the task's figure (top-1 in %, perplexity) of each node's model, by rank.
        test_loss: mean cross-entropy over nodes and samples.
        averaged_model: the figure of the averaged model, or None where it was not asked for.
        consensus_distance: sqrt(mean_i ||x_i - mean||^2), or None where it was not asked for.
    """

    per_node: list[float]
    test_loss: float
    averaged_model: float | None
    consensus_distance: float | None

    @property
    def mean(self) -> float:
        """The figure, mean over nodes."""
        return sum(self.per_node) / len(self.per_node)


@torch.no_grad()
def _count(model: nn.Module, task: Task, batches: Iterable[Batch], amp: str | None) -> torch.Tensor:
    """[correct predictions, summed loss, predictions], float64, in host memory."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    counts = torch.zeros(3, dtype=torch.float64, device=device)
    carried = None
    for batch in batches:
        inputs, targets = (to_device(part, device) for part in batch)
        with autocast(amp, device):
            outputs, carried = task.forward(model, inputs, carried)
        counts[0] += (outputs.argmax(dim=-1) == targets).sum()
        counts[1] += cross_entropy(outputs, targets, reduction="sum")
        counts[2] += targets.numel()
    model.train(training)
    return counts.cpu()


def average_model(model: nn.Module, communicator: Communicator) -> None:
    """Give every node the mean of the nodes' parameters and of their running statistics."""
    average(
        communicator, [*model.parameters(), *(b for b in model.buffers() if b.is_floating_point())]
    )


@torch.no_grad()
def _consensus_distance(model: nn.Module, averaged: nn.Module, communicator: Communicator) -> float:
    squared = torch.zeros(1, dtype=torch.float64, device=next(model.parameters()).device)
    for own, mean in zip(model.parameters(), averaged.parameters(), strict=True):
        squared += torch.linalg.vector_norm(own - mean, dtype=torch.float64).square()
    squared = squared.cpu()
    communicator.average(squared)
    return math.sqrt(float(squared))


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    communicator: Communicator,
    *,
    averaged: bool,
    consensus: bool,
    amp: str | None = None,
) -> Evaluation:
    """Evaluate on every node; all nodes call it together.

    The processes of a node take a share of the test set each; the averaged model is evaluated
    once, each node taking a share.

    Args:
        averaged: evaluate the averaged model as well.
        consensus: measure the consensus distance as well.
        amp: see `pcode.training.tasks.autocast`.

    Raises:
        DivergenceError: on every node, where the test loss is not finite.
    """
    task, local_ranks = TASKS[dataset.task], communicator.local_ranks

    def counts_of(counted: nn.Module, part: int, num_local_ranks: int) -> list[torch.Tensor]:
        """Return every node's: sums over its processes, which take a share of the test set."""
        own = _count(counted, task, dataset.test_batches(part, num_local_ranks), amp)
        local_ranks.all_reduce(own)
        return communicator.all_gather(own)

    counts = counts_of(model, local_ranks.rank, local_ranks.size)
    losses = [float(loss / count) for _, loss, count in counts]
    test_loss = sum(losses) / len(losses)
    if not math.isfinite(test_loss):
        ranks = tuple(rank for rank, loss in enumerate(losses) if not math.isfinite(loss))
        raise DivergenceError(f"the test loss, mean over nodes, is {test_loss}", ranks=ranks)
    averaged_figure = distance = None
    if averaged or consensus:
        mean_model = copy.deepcopy(model)
        average_model(mean_model, communicator)
        if averaged:
            num_processes = communicator.size * local_ranks.size
            shares = counts_of(mean_model, communicator.process, num_processes)
            averaged_figure = task.figure(*torch.stack(shares).sum(dim=0).tolist())
        if consensus:
            distance = _consensus_distance(model, mean_model, communicator)
    return Evaluation(
        per_node=[task.figure(*count.tolist()) for count in counts],
        test_loss=test_loss,
        averaged_model=averaged_figure,
        consensus_distance=distance,
    )
