"""A graph in numbers and as a picture.

python -m pcode.tools.graph --graph_topology social --n_mpi_process 32 --picture graph.png
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pcode.tools.command import FORMATS, Parser, as_it_stands, check_writable, tool
from pcode.topology import Directed, Graph, Mixing, Topology, make_graph
from pcode.topology.binary_tree import Trees
from pcode.utils.errors import UserError
from pcode.utils.files import printable

# Rounds shown of a period at most, of what has none, and beside each other.
MOST_ROUNDS, ROUNDS_SHOWN, COLUMNS = 12, 4, 4
CIRCULAR = {"ring", "ring_ext", "data_center", "complete", "expander", "exponential"}
CIRCULAR |= {"directed_exponential", "equistatic"}
MAX_BALANCED = 200  # nodes; the Kamada-Kawai layout takes minutes above
MAX_LABELLED = 300  # nodes
MAX_NODES = 4096  # as many as a run may have
BEND = 0.28  # of the long edges of a torus, around the nodes between
NODE_COLOUR, EDGE_COLOUR, INK = "#dbe7f3", "#3b6ea5", "#1a2b3c"

Positions = dict[int, Any]


def draw(graph: Graph, path: Path) -> None:
    """Write the picture; its suffix says the format.

    A graph that varies in time is shown by the rounds of its period, or by the first of many, and
    several trees side by side. An arrow leads from a node to whom it sends; where all links of a
    round lead both ways they are lines.
    """
    if isinstance(graph, Trees):
        panels: dict[str, Mixing] = {f"tree {k}": tree for k, tree in enumerate(graph.trees)}
    else:
        period = graph.period or MOST_ROUNDS + 1
        number = period if period <= MOST_ROUNDS else ROUNDS_SHOWN
        panels = {f"round {step}": graph.at(step) for step in range(number)}
    num_columns, num_rows = min(len(panels), COLUMNS), -(-len(panels) // COLUMNS)
    side = 3.6 if len(panels) > 1 else min(5.0 + graph.num_nodes / 50, 14)
    figure = Figure(figsize=(side * num_columns, side * num_rows + 0.4), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for panel in axes:
        panel.axis("off")
    columns = _torus_columns(graph)
    for panel, (title, mixing) in zip(axes, panels.items(), strict=False):
        shown = mixing if isinstance(mixing, Topology) else graph
        _draw_round(panel, mixing, _positions(shown, columns), columns)
        if len(panels) > 1:
            panel.set_title(title, fontsize=10, color=INK)
    title = f"{graph.name}, n = {graph.num_nodes}, spectral gap {graph.spectral_gap:.3g}"
    figure.suptitle(as_it_stands(printable(title)), fontsize=12, color=INK)
    figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.1)


def _torus_columns(graph: Graph) -> int:
    """Return the columns of a torus's grid; 0 for every other graph."""
    n = graph.num_nodes
    num_rows = next(m for m in range(math.isqrt(n), 0, -1) if n % m == 0)
    return n // num_rows if graph.name == "torus" and num_rows > 1 else 0


def _positions(graph: Graph, columns: int) -> Positions:
    num_nodes = graph.num_nodes
    if columns:
        return {i: np.array((i % columns, -(i // columns)), float) for i in range(num_nodes)}
    name = graph.name.partition(":")[0]
    can_balance = name not in (*CIRCULAR, "torus") and 2 < num_nodes <= MAX_BALANCED
    if can_balance and isinstance(graph, Topology | Directed):
        links = nx.Graph((int(i), int(j)) for i, j in np.argwhere(graph.matrix) if i != j)
        return dict(nx.kamada_kawai_layout(links))
    turns = np.pi / 2 - 2 * np.pi * np.arange(num_nodes) / num_nodes  # clockwise from the top
    return dict(enumerate(np.stack((np.cos(turns), np.sin(turns)), axis=1)))


def _draw_round(panel: Axes, mixing: Mixing, positions: Positions, columns: int) -> None:
    arcs = nx.DiGraph()
    arcs.add_nodes_from(positions)
    for i in positions:
        arcs.add_weighted_edges_from((j, i, w) for j, w in mixing.weights(i).items() if i != j)
    heaviest = max(nx.get_edge_attributes(arcs, "weight").values(), default=1.0)
    size = max(30.0, min(330.0, 9000 / len(positions)))
    common: dict[str, Any] = {"pos": positions, "ax": panel, "node_size": size}
    both_ways = [(j, i) for j, i in arcs.edges if j < i and arcs.has_edge(i, j)]
    one_way = [(j, i) for j, i in arcs.edges if not arcs.has_edge(i, j)]
    for style, chosen in (("<|-|>" if one_way else "-", both_ways), ("-|>", one_way)):
        for bend in (0.0, BEND):
            bent = [arc for arc in chosen if _is_long(arc, columns) == bool(bend)]
            nx.draw_networkx_edges(
                arcs,
                edgelist=bent,
                width=[0.4 + 1.6 * arcs.edges[arc]["weight"] / heaviest for arc in bent],
                edge_color=EDGE_COLOUR,
                alpha=0.75,
                arrowstyle=style,
                arrowsize=9,
                connectionstyle=f"arc3,rad={bend}",
                **common,
            )
    nx.draw_networkx_nodes(arcs, node_color=NODE_COLOUR, edgecolors=INK, linewidths=0.8, **common)
    if len(positions) <= MAX_LABELLED:
        font = max(3.0, min(8.0, math.sqrt(size) / 2.2))
        nx.draw_networkx_labels(arcs, positions, ax=panel, font_size=font, font_color=INK)
    panel.set_aspect("equal")
    # The same limits in every round, whichever edges are drawn.
    corners, border = np.array(list(positions.values())), 0.55 if columns else 0.15
    panel.set_xlim(corners[:, 0].min() - border, corners[:, 0].max() + border)
    panel.set_ylim(corners[:, 1].min() - border, corners[:, 1].max() + border)


def _is_long(arc: tuple[int, int], columns: int) -> bool:
    """Return whether an edge leads around a torus, to the other end of a row or column."""
    if not columns:
        return False
    (row, column), (other_row, other_column) = (divmod(node, columns) for node in arc)
    return max(abs(row - other_row), abs(column - other_column)) > 1


def summary(graph: Graph) -> list[str]:
    """Say in a few lines what is known of a graph."""
    is_directed = isinstance(graph, Directed)
    count = (lambda rank: len(graph.at(0).receivers(rank))) if is_directed else graph.degree
    degrees = [count(rank) for rank in range(graph.num_nodes)]
    neighbours = " to ".join(map(str, sorted({min(degrees), max(degrees)})))
    head = f"graph: {graph.name}, {graph.num_nodes} nodes"
    if isinstance(graph, Topology):
        gamma = graph.theoretical_gamma(1.0)
        return [
            f"{head}, {len(graph.edges)} edges",
            f"  neighbours of a node: {neighbours}",
            f"  spectral gap rho: {graph.spectral_gap:.4g}",
            f"  beta = ||I - W||: {graph.beta:.4g}",
            f"  the theory's gamma for delta = 1: {gamma:.3g}; tuned values are far larger",
        ]
    if is_directed:
        return [
            f"{head}, {sum(degrees)} one-way links",
            f"  links out of a node: {neighbours}",
            f"  spectral gap 1 - |lambda_2(P)|: {graph.spectral_gap:.4g}",
        ]
    return [
        f"{head}, other edges in every round",
        f"  neighbours of a node in a round: {neighbours}",
        f"  spectral gap, a round: {graph.spectral_gap:.4g}",
    ]


@tool("graph")
def main(arguments: Sequence[str]) -> None:
    """Print the graph's numbers, and draw it on request."""
    parser = Parser(prog="python -m pcode.tools.graph", description=__doc__)
    parser.add_argument("--graph_topology", default="ring", help="name or file of the graph")
    parser.add_argument("--n_mpi_process", type=int, default=16, help="number of nodes")
    parser.add_argument("--manual_seed", type=int, default=6, help="for what is drawn at random")
    parser.add_argument("--picture", type=Path, help="file to draw the graph into")
    options = parser.parse_args(arguments)
    if options.n_mpi_process > MAX_NODES:
        raise UserError(f"--n_mpi_process {options.n_mpi_process}: at most {MAX_NODES}")
    graph = make_graph(options.graph_topology, options.n_mpi_process, options.manual_seed)
    check_writable("picture", options.picture, FORMATS)
    print(*map(printable, (*graph.notices, *summary(graph))), sep="\n")
    if options.picture is not None:
        draw(graph, options.picture)
        print(f"picture: {options.picture}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
