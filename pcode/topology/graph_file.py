"""A graph of the user's own, from a text file."""

import io
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from pcode.topology.base import Topology, metropolis_weights
from pcode.utils.errors import UserError
from pcode.utils.files import read_text, shortened

# What a graph may take at most in its file: an entry of a matrix, or two edges, and comments.
ENTRY_BYTES, SMALL_BYTES = 64, 1 << 20

# A line's number in the file, from 1, and its words.
Line = tuple[int, list[str]]
T = TypeVar("T")


def graph_file(path: str, num_nodes: int) -> Topology:
    """Return the topology that a text file describes, as an edge list or as a mixing matrix.

    Edge list: a line `i j` per edge, nodes counted from 0; direction, order and repetition do
    not matter; the weights are the Metropolis weights. Matrix: n lines of n weights, each a
    decimal number or a fraction such as 1/3. A file whose first line holds two whole numbers is
    an edge list (no valid matrix begins so). `#` starts a comment; empty lines are skipped.
    Whatever is wrong with it becomes a UserError that names the file and, where it can, the line.
    """
    try:
        text = read_text(path, SMALL_BYTES + ENTRY_BYTES * num_nodes**2)
    except ValueError as error:
        raise UserError(f"graph file {path!r}: cannot be read: {error}") from None
    split = [line.partition("#")[0].split() for line in io.StringIO(text, newline=None)]
    lines: list[Line] = [(number, words) for number, words in enumerate(split, 1) if words]
    if lines and not _is_edge(lines[0][1]):
        rows = _parse(path, lines, lambda words: _row(words, num_nodes))
        if len(rows) != num_nodes:
            raise UserError(
                f"graph file {path!r}, line {lines[-1][0]}: the matrix ends after {len(rows)} rows "
                f"of {num_nodes}"
            )
        return Topology(path, np.array(rows))
    edges = _parse(path, lines, lambda words: _edge(words, num_nodes))
    num_named = 1 + max((max(edge) for edge in edges), default=0)
    if num_named < num_nodes:
        raise UserError(
            f"graph file {path!r}: has {num_named} nodes, the run {num_nodes}; they must agree"
        )
    return Topology(path, metropolis_weights(num_nodes, edges))


def _parse(path: str, lines: list[Line], parse: Callable[[list[str]], T]) -> list[T]:
    """Parse the words of each line; a ValueError becomes a UserError that names the line."""
    parsed = []
    for number, words in lines:
        try:
            parsed.append(parse(words))
        except ValueError as error:
            raise UserError(f"graph file {path!r}, line {number}: {error}") from None
    return parsed


def _is_edge(words: list[str]) -> bool:
    return len(words) == 2 and all(word.isascii() and word.isdecimal() for word in words)


def _edge(words: list[str], num_nodes: int) -> tuple[int, int]:
    if not _is_edge(words):
        raise ValueError(f"{shortened(' '.join(words))} is not an edge, as 0 1")
    for word in words:
        # Comparing lengths first saves int() from words of thousands of digits.
        if len(word.lstrip("0")) > len(str(num_nodes)) or int(word) >= num_nodes:
            raise ValueError(f"node {shortened(word)}, but the run has {num_nodes}, counted from 0")
    i, j = map(int, words)
    if i == j:
        raise ValueError(f"an edge joins two different nodes, not {i} and {j}")
    return i, j


def _row(words: list[str], num_nodes: int) -> list[float]:
    row = [_weight(word) for word in words]
    if len(row) != num_nodes:
        raise ValueError(
            f"{len(row)} numbers; a matrix for the run's n = {num_nodes} has {num_nodes} in "
            "every line, an edge list 2 whole ones"
        )
    return row


def _weight(word: str) -> float:
    numerator, slash, denominator = word.partition("/")
    try:
        weight = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{shortened(word)} is not a number") from None
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(f"{shortened(word)} is not a finite number >= 0")
    return weight
