"""Graphs of the user's own."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import networkx
import numpy as np
import pandas
import pytest
import scipy.io
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcode.topology import Directed, Topology, make_graph, make_topology
from pcode.utils.errors import UserError

RING_EDGES = "0 1\n1 2\n2 3\n3 0\n"
RING_MATRIX = "1/3 1/3 0 1/3\n1/3 1/3 1/3 0\n0 1/3 1/3 1/3\n1/3 0 1/3 1/3\n"


def read(folder: Path, text: str | bytes, num_nodes: int) -> Topology:
    file = folder / "graph.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return make_topology(str(file), num_nodes)


@pytest.mark.parametrize(
    "text",
    [
        RING_EDGES,
        RING_MATRIX,
        "# a ring\n\n 3\t0 # closes it\n0 1\r\n1 0\n2 1\n3 2",
        "\ufeff" + RING_EDGES,
    ],
)
def test_the_forms_of_a_ring(tmp_path: Path, text: str) -> None:
    topology = read(tmp_path, text, 4)
    np.testing.assert_allclose(topology.matrix, make_topology("ring", 4).matrix, atol=1e-15)
    assert topology.name == str(tmp_path / "graph.txt")


def test_what_numpy_wrote_is_read_exactly(tmp_path: Path) -> None:
    matrix = make_topology("expander", 13).matrix
    np.savetxt(tmp_path / "matrix.txt", matrix)
    np.testing.assert_array_equal(make_topology(str(tmp_path / "matrix.txt"), 13).matrix, matrix)


RING = make_topology("ring", 4).matrix
CYCLE, WEIGHTED, OF_NUMPY = (networkx.cycle_graph(4) for _ in range(3))
networkx.set_edge_attributes(WEIGHTED, 1 / 3, "weight")
networkx.set_edge_attributes(
    OF_NUMPY, {edge: {"weight": np.float64(1 / 3), "colour": "#f00"} for edge in CYCLE.edges}
)
EDGES = np.array(CYCLE.edges)
TABLE = pandas.DataFrame(EDGES, columns=["source", "target"])
GEPHI = "Source,Target,Type,Id,Label,timeset,Weight\n" + "".join(
    f"{i},{j},Undirected,{number},,,{1 / 3}\n" for number, (i, j) in enumerate(EDGES)
)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: networkx.write_edgelist(CYCLE, file),
        lambda file: networkx.write_edgelist(CYCLE, file, delimiter=",", data=False),
        lambda file: networkx.write_edgelist(WEIGHTED, file),
        lambda file: networkx.write_edgelist(WEIGHTED, file, delimiter=","),
        lambda file: networkx.write_edgelist(OF_NUMPY, file),
        lambda file: networkx.write_weighted_edgelist(WEIGHTED, file),
        lambda file: networkx.write_edgelist(WEIGHTED, file, delimiter=";", data=["weight"]),
        lambda file: np.savetxt(file, EDGES),
        lambda file: np.savetxt(file, np.c_[EDGES, np.full(4, 1 / 3)], delimiter=","),
        lambda file: np.savetxt(file, RING, delimiter=",", header="weights"),
        lambda file: np.savetxt(file, networkx.to_numpy_array(CYCLE), fmt="%d"),
        lambda file: np.save(file, RING),
        lambda file: np.save(file, EDGES),
        lambda file: np.save(file, networkx.to_numpy_array(CYCLE, dtype=bool)),
        lambda file: scipy.io.mmwrite(file, RING),
        lambda file: scipy.io.mmwrite(file, networkx.to_scipy_sparse_array(CYCLE), field="pattern"),
        lambda file: scipy.io.mmwrite(file, scipy.sparse.csr_array(RING)),
        TABLE.to_csv,
        lambda file: TABLE.assign(weight=1 / 3).to_csv(file, index=False, quoting=csv.QUOTE_ALL),
        lambda file: TABLE.assign(weight=1 / 3).to_csv(file, sep="\t"),
        lambda file: pandas.DataFrame(RING).to_csv(file),
        lambda file: pandas.DataFrame(RING, columns=list("abcd")).to_csv(file, index=False),
        lambda file: file.write(b'"from" "to"\n"1" 0 1\n"2" 1 2\n"3" 2 3\n"4" 3 0\n'),  # R's table
        lambda file: file.write(GEPHI.encode()),  # Gephi's table of edges
        lambda file: file.write(GEPHI.replace(",,,", ',"a, #2 {b}",,').encode()),
        lambda file: file.write(GEPHI.replace(",,,", ",my label,,").encode()),
        lambda file: file.write(GEPHI.replace("Label", '"My ""Label"" (%)"').encode()),
        lambda file: TABLE.assign(label="a b").to_csv(file, sep=" ", quoting=csv.QUOTE_ALL),
        lambda file: file.write("\ufeff0;1\r\n1;2\r\n2;3\r\n3;0\r\n".encode()),  # Excel's
    ],
)
def test_what_others_write(tmp_path: Path, write: Callable[[BinaryIO], Any]) -> None:
    with (tmp_path / "graph.txt").open("wb") as file:
        write(file)
    topology = make_topology(str(tmp_path / "graph.txt"), 4)
    np.testing.assert_allclose(topology.matrix, RING, atol=1e-15)
    assert topology.notices == ()


@pytest.mark.parametrize("graph", [networkx.path_graph(2), *map(networkx.path_graph, (3, 4))])
@pytest.mark.parametrize("dtype", [int, float, bool])
@pytest.mark.parametrize("loops", [0, 1])
@pytest.mark.parametrize(
    "write",
    [
        np.save,
        lambda file, matrix: np.savetxt(file, matrix, fmt="%d", delimiter=","),
        np.savetxt,
    ],
)
def test_an_adjacency_matrix_of_few_nodes_is_no_list_of_edges(
    tmp_path: Path, graph: Any, dtype: type, loops: int, write: Callable[..., Any]
) -> None:
    matrix = networkx.to_numpy_array(graph) + loops * np.eye(len(graph))
    with (tmp_path / "graph.txt").open("wb") as file:
        write(file, matrix.astype(dtype))
    topology = make_topology(str(tmp_path / "graph.txt"), len(graph))
    assert topology.edges == tuple(sorted(graph.edges))


@pytest.mark.parametrize("num_nodes", [2, 3, 4])
@pytest.mark.parametrize("write", [np.save, np.savetxt])
def test_numpys_edges_with_weights(
    tmp_path: Path, num_nodes: int, write: Callable[..., Any]
) -> None:
    edges = [(i, j) for j in range(num_nodes) for i in range(j)]
    with (tmp_path / "graph.txt").open("wb") as file:
        write(file, np.c_[np.array(edges), np.full(len(edges), 1 / num_nodes)])
    topology = make_topology(str(tmp_path / "graph.txt"), num_nodes)
    np.testing.assert_allclose(topology.matrix, 1 / num_nodes)


@pytest.mark.parametrize("text", ["0 1", "0.0 1.0", "0 1\n0 1", "1 0\n0 1", "0 1\n1 1", "1 1\n1 1"])
def test_lines_of_two_nodes_mean_one_edge(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, text, 2).edges == ((0, 1),)


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("0 1 .25\n1 2 .5\n", [{0: 0.75, 1: 0.25}, {0: 0.25, 1: 0.25, 2: 0.5}, {1: 0.5, 2: 0.5}]),
        (
            "2 1 1/2\n1 2 1/2\n0 1 1/2\n0 0 1/2",
            [{0: 0.5, 1: 0.5}, {0: 0.5, 2: 0.5}, {1: 0.5, 2: 0.5}],
        ),
    ],
)
def test_weights_of_edges_and_the_rest_for_the_node_itself(
    tmp_path: Path, text: str, weights: list[dict[int, float]]
) -> None:
    topology = read(tmp_path, text, 3)
    assert [topology.weights(rank) for rank in range(3)] == weights


@pytest.mark.parametrize(("name", "num_nodes"), [("ring", 7), ("social", 32), ("star", 7)])
@pytest.mark.parametrize("write", ["float32", "%.6f", "%.6g", "edges"])
def test_rounded_weights_are_put_right_with_a_notice(
    tmp_path: Path, name: str, num_nodes: int, write: str
) -> None:
    exact = make_topology(name, num_nodes).matrix
    file = tmp_path / "matrix.txt"
    if write == "edges":
        pairs = [(i, j) for i, j in np.argwhere(exact)]
        file.write_text("".join(f"{i} {j} {exact[i, j]:.6f}\n" for i, j in pairs))
    else:
        stored = exact.astype(np.float32) if write == "float32" else exact
        np.savetxt(file, stored, fmt="%.9g" if write == "float32" else write)
    topology = make_topology(str(file), num_nodes)
    assert np.abs(topology.matrix.sum(axis=1) - 1).max() < 1e-14
    np.testing.assert_allclose(topology.matrix, exact, atol=2e-5)
    assert topology.edges == make_topology(name, num_nodes).edges
    (notice,) = topology.notices
    assert notice.startswith(f"graph file '{file}': its entries are rounded (by up to ")


def test_a_notice_says_how_askew_a_matrix_is(tmp_path: Path) -> None:
    (notice,) = read(tmp_path, ".5 .25 .25\n.2500001 .5 .2499999\n.25 .25 .5", 3).notices
    assert notice.endswith("its entries are rounded (by up to 1e-07): put right")


def test_two_nodes_as_edge_list_and_as_matrix(tmp_path: Path) -> None:
    assert read(tmp_path, "0 1\n1 0\n", 2).weights(0) == {0: 0.5, 1: 0.5}
    assert read(tmp_path, "0.25 0.75\n0.75 0.25\n", 2).weights(0) == {0: 0.25, 1: 0.75}


def test_one_node_has_no_edges(tmp_path: Path) -> None:
    assert read(tmp_path, "# nobody else\n", 1).num_nodes == 1
    assert read(tmp_path, "1\n", 1).num_nodes == 1


@pytest.mark.parametrize(
    ("text", "num_nodes", "reason"),
    [
        ("0 1\n1 two\n", 3, "line 2: '1 two' is not an edge, as 0 1"),
        ("0 1\n1 2 0.5\n", 3, "line 2: '1 2 0.5' is not an edge"),
        ("0 1 0.5\n1 2 0.5\n", 4, "has 3 nodes, the run 4"),
        ("0 1 0.5\n1 2\n", 3, "line 2: '1 2' is not an edge, as 0 1 0.3"),
        ("0 1 0.5\n1 x 0.5\n", 3, "line 2: '1 x 0.5' is not an edge, as 0 1 0.3"),
        ("0 1 0.5\n1 2 x\n", 3, "line 2: 'x' is not a number"),
        ("0 1 0.5\n1 2 -1\n", 3, "line 2: '-1' is not a finite number >= 0"),
        ("0 1 1\n1 2 1\n", 3, "the weights of node 1 sum to 2; mixing weights sum to at most 1"),
        ("0 1 .5\n1 2 .3\n0 1 .4\n", 3, "edge 0 1 has the weights 0.5 and 0.4"),
        ("0 1 .5\n1 2 .3\n1 0 .4\n", 3, r"not symmetric: entry \(0, 1\) is 0.5, \(1, 0\) is 0.4"),
        ("0 0 .4\n0 1 .5\n1 2 .3\n", 3, "row 0 sums to 0.9, not to 1"),
        ("0.5 1\n1 2\n", 3, "line 1: '0.5' is not a node"),
        ("0.0 1.5\n1.0 2.0\n", 4, "line 1: '1.5' is not a node"),
        ("id,from,to\n0,0,1\n", 4, "line 1: columns 'id, from, to'; expected source, target and"),
        ("source,target\n0,1,2,3\n", 4, "line 2: 4 words where the header has 2"),
        ("source,target\n0,1\n1,1\n", 2, "line 3: an edge joins two different nodes"),
        ("0 1" + " " * 200000 + "{", 2, "line 1: '{' is not a number"),  # in no quadratic time
        ("1 1\n", 2, "line 1: an edge joins two different nodes"),
        ("0,1,0.3\n1,2," + "3" * 200000, 3, "cannot be read: field larger"),
        ("source,target\n0,1\n1,x\n", 4, "line 3: '1 x' is not an edge"),
        ("1 2\n2 3\n3 1\n", 3, "line 2: node '3', but the run has 3, counted from 0"),
        ('{"edges": [[0, 1], [1, 2]]}', 1, "line 1: .* is not a number; expected edges, as 0 1 or"),
        ("<?xml version='1.0'?>\n", 4, "line 1: '<.xml' is not a number; expected edges"),
        ("%%MatrixMarket matrix array real general\n99999999 99999999\n1\n", 4, "n = 4"),
        ("%%MatrixMarket matrix array real general\n4 4\n1\n", 4, "cannot be read"),
        (b"\x93NUMPY\x01\0", 4, "cannot be read"),
        ("one 0\n", 3, "line 1: 'one' is not a number"),
        ("0 1\n\n1 1\n", 3, "line 3: an edge joins two different nodes"),
        ("0 1\n1 2 # far\n", 2, "line 2: node '2', but the run has 2"),
        ("0 1\n1 " + "9" * 9999, 2, r"line 2: node '9{77}\.\.\.'"),
        ("0 1\n1 -1\n", 2, "line 2: '1 -1' is not an edge"),
        ("-1 0\n1 0\n", 2, "line 1: '-1' is not a finite number >= 0"),
        ("0 1\n", 3, "has 2 nodes, the run 3"),
        ("", 3, "has 1 nodes, the run 3"),
        ("0 1\n2 3\n", 4, "n = 4: not connected"),
        ("0 1 1\n1 2\n", 3, "line 2: '1 2' is not an edge, as 0 1 0.3"),
        (".5 .5 0\n.5 0 .5\n", 3, "line 2: the matrix ends after 2 rows of 3"),
        (RING_MATRIX, 5, "line 1: 4 numbers; .* n = 5 has 5"),
        (RING_MATRIX.replace("0", "nan"), 4, "line 1: 'nan' is not a finite"),
        (RING_MATRIX.replace("0", "1/0"), 4, "line 1: '1/0' is not a number"),
        (RING_MATRIX.replace("0", "1e999"), 4, "line 1: '1e999' is not a finite"),
        (RING_MATRIX.replace("1/3", "0.3333"), 4, "n = 4: row 0 sums to 0.9999"),
        (b"\x89PNG\xff\xfe\x00", 4, "not a text file"),
        (b"\x00\x00\x00\x00", 4, r"line 1: '\\x00\\x00\\x00\\x00' is not a number"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(
    tmp_path: Path, text: str | bytes, num_nodes: int, reason: str
) -> None:
    with pytest.raises(UserError, match=f"graph.txt'.*{reason}") as refusal:
        read(tmp_path, text, num_nodes)
    assert "\n" not in str(refusal.value)


def read_directed(folder: Path, text: str, num_nodes: int) -> Directed:
    file = folder / "graph.txt"
    file.write_text(text)
    graph = make_graph(f"directed:{file}", num_nodes)
    assert isinstance(graph, Directed)
    return graph


# 0 sends to 1 and 2, 1 to 2, 2 to 0.
EQUAL = [[1 / 3, 0, 1 / 2], [1 / 3, 1 / 2, 0], [1 / 3, 1 / 2, 1 / 2]]


@pytest.mark.parametrize(
    "text",
    [
        "0 1\n0 2\n1 2\n2 0\n",
        "2,0\n1,2\n0,2\n0,1\n0,1\n",
        "source,target\n0,1\n0,2\n1,2\n2,0\n",
        "0 1 1/3\n0 2 1/3\n1 2 .5\n2 0 .5\n",
        "0 1 1/3\n0 2 1/3\n0 0 1/3\n1 2 1/2\n1 1 1/2\n2 0 .5\n",
        "1/3 0 1/2\n1/3 1/2 0\n1/3 1/2 1/2\n",
        "0 1 1\n0 0 1\n1 0 0\n",
    ],
)
def test_the_forms_of_a_directed_graph(tmp_path: Path, text: str) -> None:
    graph = read_directed(tmp_path, text, 3)
    np.testing.assert_allclose(graph.matrix, EQUAL, atol=1e-15)
    assert graph.receivers(0) == (1, 2)
    assert graph.senders(0) == (2,)
    assert graph.notices == ()
    # The largest modulus of the eigenvalues but 1, from the characteristic polynomial.
    roots = np.sort(np.abs(np.roots(np.poly(np.array(EQUAL)))))
    assert graph.spectral_gap == pytest.approx(1 - roots[-2])


@pytest.mark.parametrize("write", ["edges", "matrix"])
def test_rounded_shares_are_put_right_with_a_notice(tmp_path: Path, write: str) -> None:
    exact = make_graph("directed_exponential", 33)
    assert isinstance(exact, Directed)
    rounded = np.round(exact.matrix, 6)
    entries = [f"{j} {i} {rounded[i, j]}" for i, j in np.argwhere(rounded)]
    rows = [" ".join(map(str, row)) for row in rounded]
    graph = read_directed(tmp_path, "\n".join(entries if write == "edges" else rows), 33)
    np.testing.assert_allclose(graph.matrix, exact.matrix, atol=1e-6)
    assert np.abs(graph.matrix.sum(axis=0) - 1).max() < 1e-15
    assert "entries are rounded" in graph.notices[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 1\n1 2\n", "no path leads to node 0 from node 1"),
        ("0 1 .6\n0 2 .5\n1 2 .5\n2 0 .5\n", "weights of node 0 sum to 1.1; .* at most 1"),
        ("0 1 1\n1 2 .5\n2 0 .5\n", "node 0 has no weight for itself"),
        (".5 .5 0\n.4 .5 .5\n0 0 .5\n", "column 0 sums to 0.9"),
        ("0 1\n1 0\n", "has 2 nodes, the run 3"),
        ("0 1\n1 3\n", "line 2: node '3', but the run has 3"),
    ],
)
def test_a_directed_file_that_will_not_do(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"graph.txt'.*{reason}") as refusal:
        read_directed(tmp_path, text, 3)
    assert "\n" not in str(refusal.value)


def test_a_directed_matrix_taken_for_another_is_told(tmp_path: Path) -> None:
    text = "\n".join(" ".join(map(str, row)) for row in EQUAL)
    with pytest.raises(UserError, match=r"columns sum to 1 .*directed:\S*graph.txt --opt"):
        read(tmp_path, text, 3)


def test_what_is_no_readable_file_is_refused(tmp_path: Path) -> None:
    for path in (str(tmp_path), str(tmp_path / "none"), "missing.txt", "nul\0.txt"):
        with pytest.raises(UserError, match="graph file") as refusal:
            make_topology(path, 4)
        assert "\n" not in str(refusal.value)


def test_an_existing_file_needs_no_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mygraph").write_text(RING_EDGES)
    (tmp_path / "ring").write_text("0 1\n1 2\n2 3\n")
    monkeypatch.chdir(tmp_path)
    assert make_topology("mygraph", 4).degree(0) == 2
    assert make_topology("ring", 4).name == "ring"
    assert make_topology("./ring", 4).degree(0) == 1


WORDS = st.sampled_from(
    [
        "0",
        "1",
        "2",
        "3",
        "1.0",
        ",",
        ";",
        "{}",
        "{'weight': .3}",
        "source",
        "",
        "-1",
        "1/3",
        "1/2",
        ".5",
        "nan",
        "inf",
        "1e400",
        "1/0",
        "/",
        "#",
        "x",
        "¼",
    ]
)
LINES = st.lists(st.lists(WORDS, max_size=5).map(" ".join), max_size=5).map("\n".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(text=st.one_of(LINES, st.text(), st.binary()), num_nodes=st.integers(1, 5))
def test_any_file_is_a_topology_or_a_user_error(
    tmp_path: Path, text: str | bytes, num_nodes: int
) -> None:
    try:
        message = read(tmp_path, text, num_nodes).name
    except UserError as refusal:
        message = str(refusal)
    assert "graph.txt" in message
    assert len(message.splitlines()) == 1
