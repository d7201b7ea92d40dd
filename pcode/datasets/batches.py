"""In which batches a node goes through its training samples."""

from __future__ import annotations

import torch

from pcode.seeding import torch_generator


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
    indices: torch.Tensor, num_batches: int, batch_size: int, *, seed: int, rank: int, epoch: int
) -> list[torch.Tensor]:
    """A node's batches for an epoch, each the indices of its samples, int64.

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
    """
    generator = torch_generator(seed, "order", rank, epoch)
    batch_size = min(batch_size, len(indices))
    num_passes = -(-num_batches * batch_size // len(indices))
    passes = [torch.randperm(len(indices), generator=generator) for _ in range(num_passes)]
    order = indices[torch.cat(passes)]
    return list(torch.split(order[: num_batches * batch_size], batch_size))
