"""Trees of two branches from each node, alone and as a pair."""

from collections.abc import Iterator
from dataclasses import dataclass

from pcode.topology.base import Topology, metropolis_weights


@dataclass(frozen=True, eq=False)
class Trees(Topology):
    """The union of several trees.

    Attributes:
        trees: each over all nodes.
    """

    trees: tuple[Topology, ...] = ()


def _edges(num_nodes: int) -> Iterator[tuple[int, int]]:
    return ((i, (i - 1) // 2) for i in range(1, num_nodes))


def binary_tree(num_nodes: int) -> Topology:
    """Return the tree in which node i hangs on node (i - 1) // 2: three neighbours at most."""
    return Topology("binary_tree", metropolis_weights(num_nodes, _edges(num_nodes)))


def double_binary_trees(num_nodes: int) -> Trees:
    """Return a binary tree and its mirror image, i to n - 1 - i: a node is a leaf of one at least.

    What is sent through trees goes by halves through each, so that all nodes send about as much.
    Source of the idea: Sanders et al., "Two-tree algorithms for full bandwidth broadcast, reduction
    and scan", 2009.
    """
    name, last = "double_binary_trees", num_nodes - 1
    mirrored = [(last - i, last - j) for i, j in _edges(num_nodes)]
    both = metropolis_weights(num_nodes, [*_edges(num_nodes), *mirrored])
    mirror = Topology("binary_tree", metropolis_weights(num_nodes, mirrored))
    return Trees(name, both, trees=(binary_tree(num_nodes), mirror))
