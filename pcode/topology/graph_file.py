"""A graph of the user's own, from a file."""

import csv
import io
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from pcode.topology.base import TOLERANCE, Matrix, Topology, metropolis_weights
from pcode.topology.directed import Directed
from pcode.utils.errors import UserError
from pcode.utils.files import decoded, one_line, read_bytes, shortened

# What a graph may take at most in its file: an entry of a matrix, or two edges, and comments.
ENTRY_BYTES, SMALL_BYTES = 64, 1 << 20
# By how much an entry is wrong at most that has six digits, or is a float32.
ROUNDING = 5.001e-7
_ROUNDED = "graph file {!r}: its entries are rounded (by up to {:.1g}): put right"

# What these files begin with.
NUMPY, MATRIX_MARKET = b"\x93NUMPY", b"%%MatrixMarket"

# What the columns of an edge's ends are called.
_ENDS = {"source", "target"}

# A line's number in the file, from 1, and its words.
Line = tuple[int, list[str]]
T = TypeVar("T")

# Words, some of them quoted, then what networkx writes of an edge in braces, then a comment.
_LINE = re.compile(r'([^#{"]*(?:"[^"]*"[^#{"]*)*)(?:(\{.*\})\s*)?(?:#.*)?', re.DOTALL)
_SEPARATOR = re.compile("[,;]")
# A number of NumPy's stands there as np.float64(0.3).
_WEIGHT = re.compile(r"""["']weight["']:\s*(?:[\w.]+\()?([^,)}]+)""")
_NODE = re.compile(r"[0-9]+(\.[0-9]*)?(e[+-]?[0-9]+)?", re.ASCII)
_BIT = re.compile(r"[01](\.0*)?(e[+-]?0+)?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_. -]*", re.ASCII)


def graph_file(path: str, num_nodes: int) -> Topology:
    """Return the topology that a file describes, as an edge list or as a matrix.

    Edge list: a line `i j` per edge, nodes counted from 0; direction, order and repetition do
    not matter; the weights are the Metropolis weights. With a third word in every line, `i j w_ij`,
    these are the mixing weights; an edge may stand there once, or in both directions; what a node's
    weights lack of 1 is its self weight, where no line `i i w_ii` gives one. Matrix: n lines of n
    mixing weights, each a decimal number or a fraction such as 1/3; one of zeros and ones alone
    says where edges are. Any other file whose first line holds two or three words, the first two of
    them whole numbers, is an edge list (no valid matrix of weights begins so).

    Words are separated by blanks, or, in a line that has any, by commas or semicolons alone; they
    may be quoted. A first line of names is a header; columns
    called source, target and weight may stand among others, and one without a name is skipped.
    What networkx writes behind an edge, as `{'weight': 0.3}`, is read. `#` starts a comment; empty
    lines are skipped. Matrix Market files and NumPy's .npy hold the same.

    A matrix that is doubly stochastic but for rounding to six digits, or to float32, is scaled, so
    that no row sums to more than 1, the diagonal gets the rest, and a notice says so.

    Whatever is wrong with it becomes a UserError that names the file and, where it can, the line.
    """
    matrix, has_weights = _read(path, num_nodes)
    if has_weights:
        return _put_right(path, matrix)
    joined = ((int(i), int(j)) for i, j in np.argwhere(matrix))
    return Topology(path, metropolis_weights(num_nodes, joined))


def directed_file(num_nodes: int, file: str) -> Directed:
    """Return the directed graph that a file describes in one of graph_file's forms.

    Edge list: `i j` where i sends to j; a node's weights are equal for itself and all to whom it
    sends. A third word is p_ji, the share of what i has that it sends to j; what a node's shares
    lack of 1 stays with it, where no line `i i p_ii` says how much does. Matrix: the
    column-stochastic P, whose entry p_ij is the share of j that i receives; one of zeros and ones
    alone is an adjacency matrix, as networkx writes it: 1 in row i and column j where i sends to j.

    Columns that sum to 1 but for rounding are divided by their sums, and a notice says so. Errors
    are those of graph_file and of Directed.
    """
    matrix, has_weights = _read(file, num_nodes, directed=True)
    if not has_weights:
        np.fill_diagonal(matrix, 1)
        matrix = (matrix / matrix.sum(axis=1, keepdims=True)).T
    off = np.abs(matrix.sum(axis=0) - 1)
    rounded = (off <= ROUNDING * np.count_nonzero(matrix, axis=0)).all() and off.max() > TOLERANCE
    graph = Directed(f"directed:{file}", matrix / matrix.sum(axis=0) if rounded else matrix)
    graph.notices = (_ROUNDED.format(file, off.max()),) if rounded else ()
    return graph


def _read(path: str, num_nodes: int, directed: bool = False) -> tuple[Matrix, bool]:
    """Return the mixing matrix and True, or ones where the edges are and False."""
    try:
        lines = _lines(read_bytes(path, SMALL_BYTES + ENTRY_BYTES * num_nodes**2), num_nodes)
    except (ValueError, csv.Error) as error:
        raise UserError(f"graph file {path!r}: cannot be read: {error}") from None
    header = lines[0][1] if lines else []
    names_ends = {name.lower() for name in header} >= _ENDS
    if names_ends or (len(header) > 1 and (not header[0] or all(map(_NAME.fullmatch, header)))):
        (columns,) = _parse(path, lines[:1], lambda words: _columns(words, num_nodes))
        chosen = _parse(path, lines[1:], lambda words: _chosen(words, len(header), columns))
        lines = [(number, words) for (number, _), words in zip(lines[1:], chosen, strict=True)]
    if lines and not (names_ends or _are_edges([words for _, words in lines], num_nodes)):
        rows = _parse(path, lines, lambda words: _row(words, num_nodes))
        if len(rows) != num_nodes:
            raise UserError(
                f"graph file {path!r}, line {lines[-1][0]}: the matrix ends after {len(rows)} rows "
                f"of {num_nodes}"
            )
        matrix = np.array(rows)
        return matrix, not np.isin(matrix, (0, 1)).all()
    num_columns = len(lines[0][1]) if lines else 2
    edges = _parse(path, lines, lambda words: _edge(words, num_nodes, num_columns))
    num_named = 1 + max((max(i, j) for i, j, _ in edges), default=0)
    if num_named < num_nodes:
        raise UserError(
            f"graph file {path!r}: has {num_named} nodes, the run {num_nodes}; they must agree"
        )
    if num_columns == 3:
        return _weighted(path, num_nodes, edges, directed), True
    matrix = np.zeros((num_nodes, num_nodes))
    for i, j, _ in edges:
        matrix[i, j] = 1
    return matrix, False


def _lines(content: bytes, num_nodes: int) -> list[Line]:
    """Return the lines that hold anything, of a text or of an array's rows."""
    if content.startswith((NUMPY, MATRIX_MARKET)):
        try:
            rows = np.atleast_2d(_array(content, num_nodes) + 0).tolist()  # True becomes 1
        # Damaged bytes make their readers raise nearly anything, and it all means the same here.
        except Exception as error:
            raise ValueError(one_line(error)) from None
        return [(number, [*map(repr, row)]) for number, row in enumerate(rows, 1)]
    text = io.StringIO(decoded(content), newline=None)
    lines = ((number, _words(line.strip())) for number, line in enumerate(text, 1))
    return [(number, words) for number, words in lines if words]


def _array(content: bytes, num_nodes: int) -> Any:
    file = io.BytesIO(content)
    if content.startswith(NUMPY):
        return np.load(file, allow_pickle=False)
    from scipy.io import mminfo, mmread  # noqa: PLC0415  # few graphs need them

    num_rows, num_columns, *_ = mminfo(file)
    if {num_rows, num_columns} != {num_nodes}:  # before memory is asked for
        raise ValueError(f"a matrix of {num_rows} x {num_columns}, the run has n = {num_nodes}")
    file.seek(0)
    matrix = mmread(file)
    return np.asarray(getattr(matrix, "toarray", lambda: matrix)(), dtype=np.float64)


def _words(line: str) -> list[str]:
    parts = _LINE.fullmatch(line)
    plain, attributes = parts.groups() if parts else (line.partition("#")[0], None)
    if not plain.strip():
        return [attributes] if attributes else []
    found = _SEPARATOR.search(plain)
    separator = found[0] if found else " "
    plain = plain.strip() if found else " ".join(plain.split())
    if attributes:
        plain = plain.rstrip(separator)  # networkx puts one before the braces, too
    if found or '"' in plain:
        cells = next(csv.reader([plain], delimiter=separator, skipinitialspace=True))
    else:
        cells = plain.split()
    words = [cell.strip().strip("\"'") for cell in cells]
    return words + _WEIGHT.findall(attributes or "")[:1]


def _columns(header: list[str], num_nodes: int) -> list[int]:
    """Return the places of the columns that count."""
    names = [name.lower() for name in header]
    edge = [names.index(name) for name in ("source", "target", "weight") if name in names]
    if set(names) >= _ENDS:
        return edge
    named = [place for place, name in enumerate(names) if name]  # pandas' index has no name
    if len(named) in (2, num_nodes) or (len(named) == 3 and names[-1] == "weight"):
        return named
    raise ValueError(
        f"columns {shortened(', '.join(header))}; expected source, target and, if there is one, "
        "weight"
    )


def _chosen(words: list[str], num_columns: int, columns: list[int]) -> list[str]:
    if len(words) == num_columns + 1:  # an index, as R and pandas write it
        words = words[1:]
    if len(words) != num_columns:
        raise ValueError(f"{len(words)} words where the header has {num_columns}")
    return [words[place] for place in columns]


def _parse(path: str, lines: list[Line], parse: Callable[[list[str]], T]) -> list[T]:
    """Parse the words of each line; a ValueError becomes a UserError that names the line."""
    parsed = []
    for number, words in lines:
        try:
            parsed.append(parse(words))
        except ValueError as error:
            raise UserError(f"graph file {path!r}, line {number}: {error}") from None
    return parsed


def _are_edges(rows: list[list[str]], num_nodes: int) -> bool:
    """Return whether they are edges, and not a matrix."""
    first = rows[0]
    if len(first) not in (2, 3) or not all(map(_NODE.fullmatch, first[:2])):
        return False
    if len(first) != num_nodes:
        return True
    words = [word for row in rows for word in row]
    if {len(rows), *map(len, rows)} == {num_nodes} and all(map(_BIT.fullmatch, words)):
        # An adjacency matrix: as edges these lines could not name node 2 of 3. Those of 2 nodes
        # can be edges as well, which mean the same, but for 1 0 and 0 1.
        return num_nodes == 2 and all(float(i) != float(j) for i, j in rows)
    return all(float(word).is_integer() for word in first[:2])


def _edge(words: list[str], num_nodes: int, num_columns: int) -> tuple[int, int, float]:
    """Return two nodes and the weight; 0 where there is none."""
    if len(words) != num_columns or not all(map(_NODE.fullmatch, words[:2])):
        example = "0 1" if num_columns == 2 else "0 1 0.3"
        raise ValueError(f"{shortened(' '.join(words))} is not an edge, as {example}")
    for word in words[:2]:
        if float(word) >= num_nodes:
            raise ValueError(f"node {shortened(word)}, but the run has {num_nodes}, counted from 0")
        if not float(word).is_integer():
            raise ValueError(f"{shortened(word)} is not a node, as 0")
    i, j = (int(float(word)) for word in words[:2])
    if num_columns == 2 and i == j:
        raise ValueError(f"an edge joins two different nodes, not {i} and {j}")
    return i, j, _weight(words[2]) if num_columns == 3 else 0.0


def _weighted(
    path: str, num_nodes: int, edges: list[tuple[int, int, float]], directed: bool
) -> Matrix:
    """Return the matrix of edges with mixing weights."""
    weights = {(i, j): weight for i, j, weight in edges}
    for i, j, weight in edges:
        if weights[i, j] != weight:
            raise UserError(
                f"graph file {path!r}: edge {i} {j} has the weights {weight:g} and "
                f"{weights[i, j]:g}"
            )
        if not directed:
            weights.setdefault((j, i), weight)
    matrix = np.zeros((num_nodes, num_nodes))
    matrix[tuple(zip(*weights, strict=True))] = list(weights.values())
    sums = matrix.sum(axis=1)
    most = int(sums.argmax())
    if sums[most] > 1 + ROUNDING * num_nodes:
        raise UserError(
            f"graph file {path!r}: the weights of node {most} sum to {sums[most]:g}; mixing "
            "weights sum to at most 1; without a third column they follow from the edges"
        )
    for node, total in enumerate(sums.tolist()):
        if (node, node) not in weights and total < 1 - TOLERANCE:
            matrix[node, node] = 1 - total
    return matrix.T if directed else matrix


def _put_right(path: str, matrix: Matrix) -> Topology:
    """Return the topology of a matrix whose entries may be rounded; any other is left to fail."""
    askew, off = np.abs(matrix - matrix.T).max(), np.abs(matrix.sum(axis=1) - 1)
    rounded = askew <= 2 * ROUNDING and (off <= ROUNDING * np.count_nonzero(matrix, axis=1)).all()
    most = max(askew, off.max())
    if off.max() > ROUNDING * len(matrix) >= np.abs(matrix.sum(axis=0) - 1).max():
        raise UserError(
            f"graph file {path!r}: columns sum to 1 and rows do not, as of a directed graph: "
            f"--graph_topology directed:{path} --optimizer sgp"
        )
    if not rounded or most <= TOLERANCE:
        return Topology(path, matrix)
    matrix = (matrix + matrix.T) / 2
    matrix /= matrix.sum(axis=1).max()
    matrix[np.diag_indices_from(matrix)] += np.maximum(0, 1 - matrix.sum(axis=1))
    return Topology(path, matrix, notices=(_ROUNDED.format(path, most),))


def _row(words: list[str], num_nodes: int) -> list[float]:
    row = [_weight(word) for word in words]
    if len(row) != num_nodes:
        raise ValueError(
            f"{len(row)} numbers; a matrix for the run's n = {num_nodes} has {num_nodes} in "
            "every line, an edge list 2 whole ones, or these and a weight"
        )
    return row


def _weight(word: str) -> float:
    numerator, slash, denominator = word.partition("/")
    try:
        weight = float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(
            f"{shortened(word)} is not a number; expected edges, as 0 1 or 0 1 0.3, or a matrix"
        ) from None
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(f"{shortened(word)} is not a finite number >= 0")
    return weight
