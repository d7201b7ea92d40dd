"""A graph in numbers and as a picture.

python -m pcode.tools.graph --graph_topology social --n_mpi_process 32 --picture graph.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pcode.tools.command import FORMATS, Parser, call, check_file
from pcode.tools.graph_picture import draw
from pcode.topology import Graph, Topology, make_graph
from pcode.utils.errors import UserError

MAX_NODES = 4096  # as many as a run may have


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m pcode.tools.graph", description=__doc__)
    parser.add_argument("--graph_topology", default="ring", help="name or file of the graph")
    parser.add_argument("--n_mpi_process", type=int, default=16, help="number of nodes")
    parser.add_argument("--manual_seed", type=int, default=6, help="for what is drawn at random")
    parser.add_argument("--picture", type=Path, help="file to draw the graph into")
    return parser.parse_args(arguments)


def summary(graph: Graph) -> list[str]:
    """Say in a few lines what is known of a graph."""
    degrees = [graph.degree(rank) for rank in range(graph.num_nodes)]
    neighbours = " to ".join(map(str, sorted({min(degrees), max(degrees)})))
    lines = [f"graph: {graph.name}, {graph.num_nodes} nodes"]
    if isinstance(graph, Topology):
        gamma = graph.theoretical_gamma(1.0)
        return [
            f"{lines[0]}, {len(graph.edges)} edges",
            f"  neighbours of a node: {neighbours}",
            f"  spectral gap rho: {graph.spectral_gap:.4g}",
            f"  beta = ||I - W||: {graph.beta:.4g}",
            f"  the theory's gamma for delta = 1: {gamma:.3g}; tuned values are far larger",
        ]
    return [
        f"{lines[0]}, other edges in every round",
        f"  neighbours of a node in a round: {neighbours}",
        f"  spectral gap, a round: {graph.spectral_gap:.4g}",
    ]


def _run(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    if options.n_mpi_process > MAX_NODES:
        raise UserError(f"--n_mpi_process {options.n_mpi_process}: at most {MAX_NODES}")
    graph = make_graph(options.graph_topology, options.n_mpi_process, options.manual_seed)
    check_file("picture", options.picture, FORMATS)
    print("\n".join(summary(graph)))
    if options.picture is not None:
        draw(graph, options.picture)
        print(f"picture: {options.picture}")


def main(arguments: Sequence[str]) -> int:
    """Print the graph's numbers, and draw it on request; the exit status, 2 for a mistake."""
    return call("graph", _run, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
