"""Shares with unequal labels as the papers on unequal data deal them, so that figures compare."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.utils.errors import UserError
from pcode.utils.seeding import derive_seed

# Its shares are as good as equal; what sums to infinity would not be.
LARGEST_ALPHA = 1e6
# Nodes among which the samples of a class are dealt together.
GROUP = 10
# What the smallest share of a group has at least, of their mean.
SMALLEST = 0.5
# Far more than any alpha from .01 on needs; a smaller one may find none.
MOST_DRAWS = 10_000

Samples = NDArray[np.int64]


def _groups(num_samples: int, num_nodes: int) -> list[tuple[int, int]]:
    """Return the samples and the nodes of each group."""
    ends = [*range(0, num_nodes, GROUP), num_nodes]
    cuts = [round(num_samples * end / num_nodes) for end in ends]
    return [(b - a, d - c) for (a, b), (c, d) in zip(pairwise(cuts), pairwise(ends), strict=True)]


def smallest_share(num_samples: int, num_nodes: int, *_: str) -> int:
    """Return how few samples `non_iid_dirichlet` leaves a node."""
    groups = _groups(num_samples, num_nodes)
    return min(int(SMALLEST * samples / nodes) for samples, nodes in groups)


def non_iid_dirichlet(
    targets: torch.Tensor, num_nodes: int, seed: int, epoch: int, *parameters: str
) -> list[torch.Tensor]:
    """Deal each class by proportions that are drawn from Dir(alpha), in groups of ten nodes.

    A node that has its mean share already gets nothing of the classes that follow, and all is drawn
    again until the smallest share of a group is half of the mean. The parameter is alpha.

    Source: the rule by which Lin et al., arXiv 2102.04761, and the papers that compare with it deal
    their data. Difference: what is drawn is this project's.
    """
    given = ":".join(["--partition_data non_iid_dirichlet", *parameters])
    try:
        (alpha,) = map(float, parameters)
    except ValueError:
        raise UserError(f"{given}: expected non_iid_dirichlet:ALPHA, as with .1") from None
    if not 0 < alpha <= LARGEST_ALPHA:
        raise UserError(f"{given}: alpha must be above 0 and at most {LARGEST_ALPHA:g}")
    draw = np.random.default_rng(derive_seed(seed, "partition", epoch))
    labels, order = targets.numpy(), draw.permutation(len(targets))
    shares, begin = [], 0
    for num_samples, nodes in _groups(len(targets), num_nodes):
        samples = order[begin : begin + num_samples]
        begin += num_samples
        by_class = [samples[labels[samples] == label] for label in np.unique(labels[samples])]
        for _ in range(MOST_DRAWS):
            dealt = _deal(by_class, nodes, alpha, draw)
            if min(map(len, dealt)) >= int(SMALLEST * num_samples / nodes):
                break
        else:
            raise UserError(
                f"{given}: {MOST_DRAWS:,} draws left a node less than half of the mean share; a "
                "larger alpha"
            )
        shares += dealt
    return [torch.from_numpy(np.sort(share)) for share in shares]


def _deal(
    by_class: list[Samples], nodes: int, alpha: float, draw: np.random.Generator
) -> list[Samples]:
    """Return the shares of one draw; nothing for anyone where nobody may have what is left."""
    mean = sum(map(len, by_class)) / nodes
    nothing: list[Samples] = [by_class[0][:0]] * nodes
    shares = nothing
    for samples in by_class:
        proportions = draw.dirichlet(np.full(nodes, alpha))
        proportions *= [len(share) < mean for share in shares]
        total = proportions.sum()
        if not total > 0:  # with a tiny alpha NumPy may give NaN
            return nothing
        cuts = (np.cumsum(proportions / total)[:-1] * len(samples)).astype(int)
        pieces = np.split(samples, cuts)
        shares = [np.concatenate(each) for each in zip(shares, pieces, strict=True)]
    return shares


def classes(
    targets: torch.Tensor, num_nodes: int, seed: int, epoch: int, *parameters: str
) -> list[torch.Tensor]:
    """Deal K pieces to each node, of all samples in the order of their labels.

    With classes of equal size and as many pieces as fit into one, a node has K classes at most. The
    parameter is K. Source: McMahan et al., "Communication-efficient learning of deep networks from
    decentralized data", AISTATS 2017, arXiv 1602.05629, section 3.
    """
    given = ":".join(["--partition_data classes", *parameters])
    try:
        (number,) = map(int, parameters)
    except ValueError:
        raise UserError(f"{given}: expected classes:K, as classes:2") from None
    if not 1 <= number <= len(targets) // num_nodes:
        raise UserError(f"{given}: K must be from 1 to {len(targets) // num_nodes}")
    draw = np.random.default_rng(derive_seed(seed, "partition", epoch))
    pieces = torch.argsort(targets, stable=True).tensor_split(num_nodes * number)
    order = draw.permutation(len(pieces)).reshape(num_nodes, number)
    return [torch.cat([pieces[each] for each in row]).sort().values for row in order]
