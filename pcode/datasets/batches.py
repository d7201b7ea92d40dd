"""In which batches a node goes through its training samples."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pcode.utils.seeding import torch_generator


@dataclass(frozen=True)
class LocalRank:
    """A process of a node; each takes a contiguous slice of every batch, as equal as can be.

    Attributes:
        rank: within the node, from 0.
        size: processes of the node.
    """

    rank: int = 0
    size: int = 1

    def slice_of(self, batch: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """Return its slice of a batch whose samples lie along `dim`, a view."""
        return torch.tensor_split(batch, self.size, dim)[self.rank]

    def share_of(self, num_samples: int) -> float:
        """Return how large its slice of a batch of so many is, as a share of the batch."""
        size = num_samples // self.size + (self.rank < num_samples % self.size)
        return size / num_samples

    @property
    def numbers(self) -> tuple[int, ...]:
        """What its draws are derived from besides; those of rank 0 are a whole node's."""
        return (self.rank,) if self.rank else ()


WHOLE = LocalRank()


def batches_per_epoch(num_samples: int, num_nodes: int, batch_size: int) -> int:
    """Return how many batches an epoch has on every node; num_samples are all nodes' together."""
    return max(1, num_samples // (num_nodes * batch_size))


def share_batches(
    num_samples: int, part: int, num_shares: int, batch_size: int
) -> Sequence[torch.Tensor]:
    """Return the positions in each batch of one of num_shares shares of a test set."""
    positions = torch.arange(num_samples)[part::num_shares]
    return positions.split(batch_size) if len(positions) else ()


def epoch_batches(
    indices: torch.Tensor,
    num_batches: int,
    batch_size: int,
    *,
    seed: int,
    rank: int,
    epoch: int,
    local_rank: LocalRank = WHOLE,
) -> list[torch.Tensor]:
    """Return a node's batches of an epoch, or a process' slices, each the indices of its samples.

    The node's samples are shuffled and the first num_batches * batch_size are taken; those that
    remain are others in every epoch. A share with fewer is gone through again, in another order,
    until there are enough, and batches are no larger than the share. Nodes that all hold the whole
    training set (`--partition_data none`) thus shuffle all of it, each in its own order, and take
    one n-th of its batches each.

    Args:
        indices: the node's samples, int64, one at least.
        num_batches: from batches_per_epoch.
        seed, rank, epoch: what the order depends on.
    """
    generator = torch_generator(seed, "order", rank, epoch)
    batch_size = min(batch_size, len(indices))
    num_passes = -(-num_batches * batch_size // len(indices))
    passes = [torch.randperm(len(indices), generator=generator) for _ in range(num_passes)]
    order = indices[torch.cat(passes)]
    batches = order[: num_batches * batch_size].split(batch_size)
    return [local_rank.slice_of(batch) for batch in batches]
