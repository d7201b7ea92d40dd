"""Graphs of the user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pcode.topology import Topology, make_topology
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
        ("0 1 0.5\n1 2 0.5\n", 4, "line 1: 3 numbers; a matrix .* n = 4 has 4"),
        ("one 0\n", 3, "line 1: 'one' is not a number"),
        ("0 1\n\n1 1\n", 2, "line 3: an edge joins two different nodes"),
        ("0 1\n1 2 # far\n", 2, "line 2: node '2', but the run has 2"),
        ("0 1\n1 " + "9" * 9999, 2, r"line 2: node '9{77}\.\.\.'"),
        ("0 1\n1 -1\n", 2, "line 2: '1 -1' is not an edge"),
        ("-1 0\n1 0\n", 2, "line 1: '-1' is not a finite number >= 0"),
        ("0 1\n", 3, "has 2 nodes, the run 3"),
        ("", 3, "has 1 nodes, the run 3"),
        ("0 1\n2 3\n", 4, "n = 4: not connected"),
        ("0 1 1\n1 2\n", 3, "line 2: 2 numbers"),
        ("0 1 0\n1 0 0\n", 3, "line 2: the matrix ends after 2 rows of 3"),
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
    ["0", "1", "2", "3", "-1", "1/3", "1/2", ".5", "nan", "inf", "1e400", "1/0", "/", "#", "x", "¼"]
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
