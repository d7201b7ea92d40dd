"""A graph of the user's own, from a text file."""

from __future__ import annotations

import io
import math
from typing import NoReturn

import numpy as np

from pcode.topology.base import Topology
from pcode.topology.weights import metropolis_weights
from pcode.utils.errors import UserError
from pcode.utils.files import read_text

# What a graph may take at most in its file: an entry of a matrix, or two edges, and comments.
ENTRY_BYTES, SMALL_BYTES = 64, 1 << 20

# A line's number in the file, from 1, and its words.
Line = tuple[int, list[str]]


def graph_file(path: str, num_nodes: int) -> Topology:
    """The topology that a text file describes, as an edge list or as a mixing matrix.

    Edge list: a line `i j` per edge, nodes counted from 0; direction, order and repetition do
    not matter; the weights are the Metropolis weights. Matrix: n lines of n weights, each a
    decimal number or a fraction such as 1/3. A file whose first line holds two whole numbers is
    an edge list (no valid matrix begins so). `#` starts a comment; empty lines are skipped.

    Raises:
        UserError: the file cannot be read, a line cannot be understood (the message names file
            and line), the graph has not `num_nodes` nodes, or Topology refuses the matrix.
    """
    try:
        text = read_text(path, SMALL_BYTES + ENTRY_BYTES * num_nodes**2)
    except ValueError as error:
        raise UserError(f"graph file {path!r}: cannot be read: {error}") from None
    split = [line.partition("#")[0].split() for line in io.StringIO(text, newline=None)]
    lines: list[Line] = [(number, words) for number, words in enumerate(split, 1) if words]
    if not lines or _is_edge(lines[0][1]):
        return Topology(path, metropolis_weights(num_nodes, _edges(path, lines, num_nodes)))
    return Topology(path, np.array(_matrix(path, lines, num_nodes)))


def _refuse(path: str, number: int, reason: str) -> NoReturn:
    raise UserError(f"graph file {path!r}, line {number}: {reason}")


def _is_edge(words: list[str]) -> bool:
    return len(words) == 2 and all(word.isascii() and word.isdecimal() for word in words)


def _edges(path: str, lines: list[Line], num_nodes: int) -> list[tuple[int, int]]:
    edges = []
    for number, words in lines:
        if not _is_edge(words):
            _refuse(path, number, f"{_shown(' '.join(words))} is not an edge, as 0 1")
        i, j = (_node(path, number, word, num_nodes) for word in words)
        if i == j:
            _refuse(path, number, f"an edge joins two different nodes, not {i} and {j}")
        edges.append((i, j))
    num_named = 1 + max((max(edge) for edge in edges), default=0)
    if num_named < num_nodes:
        raise UserError(
            f"graph file {path!r}: has {num_named} nodes, the run {num_nodes}; they must agree"
        )
    return edges


def _node(path: str, number: int, word: str, num_nodes: int) -> int:
    # Comparing lengths first keeps int() from words of thousands of digits.
    digits = word.lstrip("0") or "0"
    if len(digits) > len(str(num_nodes)) or int(digits) >= num_nodes:
        _refuse(path, number, f"node {_shown(word)}, but the run has {num_nodes}, counted from 0")
    return int(digits)


def _matrix(path: str, lines: list[Line], num_nodes: int) -> list[list[float]]:
    rows = []
    for number, words in lines:
        row = [_weight(path, number, word) for word in words]
        if len(row) != num_nodes:
            _refuse(
                path,
                number,
                f"{len(row)} numbers; a matrix for the run's n = {num_nodes} has {num_nodes} in "
                "every line, an edge list 2 whole ones",
            )
        rows.append(row)
    if len(rows) != num_nodes:
        _refuse(path, lines[-1][0], f"the matrix ends after {len(rows)} rows of {num_nodes}")
    return rows


def _weight(path: str, number: int, word: str) -> float:
    numerator, slash, denominator = word.partition("/")
    try:
        weight = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        _refuse(path, number, f"{_shown(word)} is not a number")
    if not math.isfinite(weight) or weight < 0:
        _refuse(path, number, f"{_shown(word)} is not a finite number >= 0")
    return weight


def _shown(word: str) -> str:
    """The word, short and printable."""
    return ascii(word if len(word) <= 20 else word[:20] + "...")
