"""Which node holds which training samples."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pcode.datasets import non_iid
from pcode.datasets.non_iid import LARGEST_ALPHA
from pcode.utils.errors import UserError
from pcode.utils.options import look_up
from pcode.utils.seeding import derive_seed, torch_generator

# alpha, and the smallest number of samples of a node
DIRICHLET_DEFAULTS = (".5", "10")


@dataclass(frozen=True)
class Scheme:
    """How samples are dealt."""

    # (targets, num_nodes, seed, epoch, *parameters) -> every node's samples
    deal: Callable[..., list[torch.Tensor]]
    # (num_samples, num_nodes, *parameters) -> how few a node may have in some epoch
    smallest: Callable[..., int] = operator.floordiv
    drawn: bool = False  # so that another epoch's differ
    by_label: bool = False  # it needs samples with labels


def partition_scheme(name: str) -> Scheme:
    """Return the scheme of that name, or raise a UserError; its parameters are not looked at."""
    return look_up("partition_data", name, SCHEMES, parametric=PARAMETRIC)


def partition_indices(
    targets: torch.Tensor, num_nodes: int, name: str, seed: int, epoch: int
) -> list[torch.Tensor]:
    """Deal the training samples: the indices of every node's, int64, in the order of ranks.

    All schemes but `none` give every sample to exactly one node.

    Args:
        targets: the training set's labels, N.
        name: `random`: a permutation of all samples, cut into n pieces; `sorted`: the same with the
            samples in the order of their labels; `dirichlet[:ALPHA[:MINIMUM]]`: see `dirichlet`;
            `non_iid_dirichlet:ALPHA`, `classes:K`: see non_iid.py; `none`: every node holds all
            samples.
        seed, epoch: what is drawn depends on them; the epoch is 0 where samples are dealt once.

    Raises:
        UserError: an unknown scheme, a parameter out of its range, or too few samples.
    """
    scheme = partition_scheme(name)
    if scheme is not SCHEMES["none"] and num_nodes > len(targets):
        raise UserError(
            f"--n_mpi_process {num_nodes}: some nodes would get none of the {len(targets)} "
            f"training samples; at most {len(targets)} nodes, or --partition_data none"
        )
    return scheme.deal(targets, num_nodes, seed, epoch, *name.split(":")[1:])


def smallest_share(name: str, num_samples: int, num_nodes: int) -> int:
    """Return how few samples a node may have in an epoch, by a scheme with valid parameters."""
    return partition_scheme(name).smallest(num_samples, num_nodes, *name.split(":")[1:])


def _random(targets: torch.Tensor, num_nodes: int, seed: int, epoch: int) -> list[torch.Tensor]:
    generator = torch_generator(seed, "partition", epoch)
    return list(torch.randperm(len(targets), generator=generator).tensor_split(num_nodes))


def _sorted(targets: torch.Tensor, num_nodes: int, seed: int, epoch: int) -> list[torch.Tensor]:
    return list(torch.argsort(targets, stable=True).tensor_split(num_nodes))


def _none(targets: torch.Tensor, num_nodes: int, seed: int, epoch: int) -> list[torch.Tensor]:
    return [torch.arange(len(targets))] * num_nodes


def dirichlet(
    targets: torch.Tensor, num_nodes: int, seed: int, epoch: int, *parameters: str
) -> list[torch.Tensor]:
    """Deal shares whose labels differ: each class by proportions that are drawn from Dir(alpha).

    A small alpha gives most of a class to few nodes, a large one the same to all. The proportions
    are rounded so that every sample goes to exactly one node; a node below the minimum then gets
    samples, drawn at random, of the node that has most.

    The parameters are alpha (.5 unless given) and the minimum (10 unless given). Source: Yurochkin
    et al., "Bayesian nonparametric federated learning of neural networks", arXiv 1905.12022,
    section 4, which sets no minimum; Li et al., arXiv 2102.02079, draw again until all nodes have
    10 samples, which with many nodes and a small alpha may never happen.
    """
    given = ":".join(["--partition_data dirichlet", *parameters])
    try:
        alpha, minimum = _dirichlet_parameters(*parameters)
    except ValueError:
        raise UserError(f"{given}: expected dirichlet:ALPHA:MINIMUM, as dirichlet:.5:10") from None
    if not 0 < alpha <= LARGEST_ALPHA:
        raise UserError(f"{given}: alpha must be above 0 and at most {LARGEST_ALPHA:g}")
    if not 1 <= minimum <= len(targets) // num_nodes:
        raise UserError(
            f"{given}: the minimum must be from 1 to {len(targets) // num_nodes}, with "
            f"{len(targets)} samples for {num_nodes} nodes"
        )
    draw = np.random.default_rng(derive_seed(seed, "partition", epoch))
    shares: list[list[int]] = [[] for _ in range(num_nodes)]
    for label in torch.unique(targets):
        samples = draw.permutation(torch.nonzero(targets == label).flatten().numpy())
        proportions = draw.dirichlet(np.full(num_nodes, alpha))
        cuts = np.rint(np.cumsum(proportions)[:-1] * len(samples)).astype(int)
        for share, piece in zip(shares, np.split(samples, cuts), strict=True):
            share.extend(piece.tolist())
    for share in shares:
        while len(share) < minimum:
            richest = max(shares, key=len)
            share.append(richest.pop(int(draw.integers(len(richest)))))
    return [torch.tensor(sorted(share), dtype=torch.int64) for share in shares]


def _dirichlet_parameters(*parameters: str) -> tuple[float, int]:
    alpha, minimum = (*parameters, *DIRICHLET_DEFAULTS[len(parameters) :])
    return float(alpha), int(minimum)


SCHEMES = {
    "random": Scheme(_random, drawn=True),
    "sorted": Scheme(_sorted),
    "dirichlet": Scheme(
        dirichlet,
        lambda num_samples, num_nodes, *parameters: _dirichlet_parameters(*parameters)[1],
        drawn=True,
        by_label=True,
    ),
    "non_iid_dirichlet": Scheme(
        non_iid.non_iid_dirichlet, non_iid.smallest_share, drawn=True, by_label=True
    ),
    "classes": Scheme(
        non_iid.classes,
        lambda num_samples, num_nodes, k: int(k) * (num_samples // (num_nodes * int(k))),
        drawn=True,
        by_label=True,
    ),
    "none": Scheme(_none, lambda num_samples, num_nodes: num_samples),
}
PARAMETRIC = ("dirichlet", "non_iid_dirichlet", "classes")
