"""The picture of a graph: nodes, edges as wide as their weights, rounds side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pcode.topology import Graph, Mixing, TimeVarying, Topology

ROUNDS_SHOWN = 4
CIRCULAR = (
    "ring",
    "ring_ext",
    "data_center",
    "complete",
    "expander",
    "exponential",
)
LARGEST_BALANCED = 200  # nodes; the Kamada-Kawai layout takes minutes above
NODE_COLOUR, EDGE_COLOUR, INK = "#dbe7f3", "#3b6ea5", "#1a2b3c"

Positions = dict[int, Any]


def draw(graph: Graph, path: Path) -> None:
    """Write the picture; its suffix says the format.

    A graph that varies in time is shown by its first rounds, with an arrow from each node to
    whom it sends, or a line where both send to each other.
    """
    rounds = _rounds(graph)
    side = 3.6 if len(rounds) > 1 else min(5.0 + graph.num_nodes / 50, 14)
    figure = Figure(figsize=(side * len(rounds), side + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(rounds), squeeze=False)[0]
    positions = _positions(graph)
    for step, (panel, mixing) in enumerate(zip(axes, rounds, strict=True)):
        _draw_round(panel, mixing, positions, _wraps(graph))
        if len(rounds) > 1:
            panel.set_title(f"round {step}", fontsize=10, color=INK)
    figure.suptitle(
        f"{graph.name}, n = {graph.num_nodes}, spectral gap {graph.spectral_gap:.3g}",
        fontsize=12,
        color=INK,
    )
    figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.1)


def _rounds(graph: Graph) -> list[Mixing]:
    if not isinstance(graph, TimeVarying):
        return [graph.at(0)]
    return [graph.at(step) for step in range(min(ROUNDS_SHOWN, graph.period or ROUNDS_SHOWN))]


def _wraps(graph: Graph) -> int:
    """The columns of a periodic grid whose long edges are bent around the nodes between, or 0."""
    if graph.name != "torus":
        return 0
    n = graph.num_nodes
    num_rows = next(m for m in range(math.isqrt(n), 0, -1) if n % m == 0)
    return n // num_rows if num_rows > 1 else 0


def _positions(graph: Graph) -> Positions:
    num_nodes, columns = graph.num_nodes, _wraps(graph)
    if columns:
        return {i: np.array((i % columns, -(i // columns)), float) for i in range(num_nodes)}
    can_balance = graph.name not in (*CIRCULAR, "torus") and 2 < num_nodes <= LARGEST_BALANCED
    if can_balance and isinstance(graph, Topology):
        return dict(nx.kamada_kawai_layout(nx.Graph(graph.edges)))
    turns = [math.pi / 2 - 2 * math.pi * i / num_nodes for i in range(num_nodes)]
    return {i: np.array((math.cos(turn), math.sin(turn))) for i, turn in enumerate(turns)}


def _draw_round(panel: Any, mixing: Mixing, positions: Positions, columns: int) -> None:
    weights = {(j, i): w for i in positions for j, w in mixing.weights(i).items() if i != j}
    heaviest = max(weights.values(), default=1.0)
    size = max(30.0, min(330.0, 9000 / len(positions)))
    for both in (True, False):
        arcs = [(j, i) for j, i in weights if ((i, j) in weights) is both and not (both and j > i)]
        for bend in (0.0, 0.28):
            chosen = [arc for arc in arcs if _bend(arc, columns) == bend]
            nx.draw_networkx_edges(
                nx.DiGraph(chosen),
                positions,
                ax=panel,
                edgelist=chosen,
                width=[0.4 + 1.6 * weights[arc] / heaviest for arc in chosen],
                edge_color=EDGE_COLOUR,
                alpha=0.75,
                arrowstyle="-" if both else "-|>",
                arrowsize=9,
                node_size=size,
                connectionstyle=f"arc3,rad={bend}",
            )
    nodes = nx.empty_graph(len(positions))
    nx.draw_networkx_nodes(
        nodes,
        positions,
        ax=panel,
        node_size=size,
        node_color=NODE_COLOUR,
        edgecolors=INK,
        linewidths=0.8,
    )
    if len(positions) <= 300:
        font = max(3.0, min(8.0, math.sqrt(size) / 2.2))
        nx.draw_networkx_labels(nodes, positions, ax=panel, font_size=font, font_color=INK)
    panel.set_aspect("equal")
    # The same limits in every round, whichever edges are drawn.
    corners = np.array(list(positions.values()))
    border = 0.55 if columns else 0.15
    panel.set_xlim(corners[:, 0].min() - border, corners[:, 0].max() + border)
    panel.set_ylim(corners[:, 1].min() - border, corners[:, 1].max() + border)
    panel.axis("off")


def _bend(arc: tuple[int, int], columns: int) -> float:
    if not columns:
        return 0.0
    (row, column), (other_row, other_column) = (divmod(node, columns) for node in arc)
    return 0.28 if max(abs(row - other_row), abs(column - other_column)) > 1 else 0.0
