"""Which node holds which training samples."""

from __future__ import annotations

import torch

from pcode.errors import UserError
from pcode.registry import look_up
from pcode.seeding import torch_generator


def partition_indices(
    targets: torch.Tensor, num_nodes: int, scheme: str, seed: int, epoch: int
) -> list[torch.Tensor]:
    """The indices of every node's training samples, int64, in the order of ranks.

    `random` and `sorted` give every sample to exactly one node; the numbers of samples of two
    nodes differ by at most one.

    Args:
        targets: the training set's labels, N.
        num_nodes: n.
        scheme: `random`: a permutation of all samples is cut into n pieces; `sorted`: the same
            with the samples in the order of their labels (ties in the order of the data set);
            `none`: every node holds all samples.
        seed: the run's seed; `random` alone depends on it and on the epoch.
        epoch: the epoch for which the samples are dealt; constant where they are dealt once.

    Raises:
        UserError: the scheme is unknown or not built yet, or there are fewer samples than nodes.
    """
    order = look_up("partition_data", scheme, SCHEMES, PLANNED)(targets, seed, epoch)
    if scheme == "none":
        return [order] * num_nodes
    if num_nodes > len(order):
        raise UserError(
            f"--n_mpi_process {num_nodes}: some nodes would get none of the {len(order)} training "
            f"samples; at most {len(order)} nodes, or --partition_data none"
        )
    return list(order.tensor_split(num_nodes))


def _permutation(targets: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    generator = torch_generator(seed, "partition", epoch)
    return torch.randperm(len(targets), generator=generator)


def _by_label(targets: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    return torch.argsort(targets, stable=True)


def _as_they_are(targets: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    return torch.arange(len(targets))


SCHEMES = {"random": _permutation, "sorted": _by_label, "none": _as_they_are}
PLANNED = ("dirichlet",)
