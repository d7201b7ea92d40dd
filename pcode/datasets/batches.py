"""In which batches a node goes through its training samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pcode.utils.seeding import torch_generator


@dataclass(frozen=True)
class Part:
    """Which slice of its node's batches a process takes: contiguous, as large as the others or one
    sample larger.

    Attributes:
        number: from 0.
        count: slices of a batch.
    """

    number: int = 0
    count: int = 1

    def of(self, batch: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """The slice of a batch whose samples lie along `dim`; a view."""
        return torch.tensor_split(batch, self.count, dim)[self.number]

    def share_of(self, num_samples: int) -> float:
        """The slice of a batch of so many, as a share of it."""
        size = num_samples // self.count + (self.number < num_samples % self.count)
        return size / num_samples

    @property
    def numbers(self) -> tuple[int, ...]:
        """What draws of its own are derived from besides; those of part 0 are a whole node's."""
        return (self.number,) if self.number else ()


WHOLE = Part()


def batches_per_epoch(num_samples: int, num_nodes: int, batch_size: int) -> int:
    """The number of batches of an epoch, the same on every node: nodes meet at every step.

    floor(N / (n * batch_size)), at least 1.

    Args:
        num_samples: N, the whole training set's.
        num_nodes: n.
        batch_size: one node's.
    """
    return max(1, num_samples // (num_nodes * batch_size))


def epoch_batches(
    indices: torch.Tensor,
    num_batches: int,
    batch_size: int,
    *,
    seed: int,
    rank: int,
    epoch: int,
    part: Part = WHOLE,
) -> list[torch.Tensor]:
    """A node's batches for an epoch, each the indices of its samples, int64; or a part of each.

    The node's samples are shuffled and the first num_batches * batch_size are taken; those that
    remain are others in every epoch. A share with fewer is gone through again, in another order,
    until there are enough, and batches are no larger than the share. Nodes that all hold the whole
    training set (`--partition_data none`) thus shuffle all of it, each in its own order, and take
    one n-th of its batches each.

    Args:
        indices: the node's samples, one at least.
        num_batches: from batches_per_epoch.
        batch_size: samples per batch.
        seed, rank, epoch: what the order depends on.
        part: which part.
    """
    generator = torch_generator(seed, "order", rank, epoch)
    batch_size = min(batch_size, len(indices))
    num_passes = -(-num_batches * batch_size // len(indices))
    passes = [torch.randperm(len(indices), generator=generator) for _ in range(num_passes)]
    order = indices[torch.cat(passes)]
    return [part.of(batch) for batch in order[: num_batches * batch_size].split(batch_size)]
