"""Whatever stands in a file of flags, hosts or a graph: a result, or one line; nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pcode.config import parse
from pcode.launch.hostfile import read_hostfile
from pcode.topology import make_topology
from pcode.utils.errors import UserError
from tests.run.bad_input import listing

NAME = "file.txt"


def text_of(*pieces: str) -> SearchStrategy[bytes]:
    """Texts made of pieces of a valid one, and some that any editor could slip in."""
    odd = ("\n", " ", "\t", "\r", "#", "\0", "\ufeff", "\u2028", "\x85", "é", "9" * 30, "-", "'")
    return st.lists(st.sampled_from((*pieces, *odd)), max_size=30).map(
        lambda chosen: "".join(chosen).encode()
    )


def changed(valid: bytes) -> SearchStrategy[bytes]:
    """A valid file with a few bytes of it replaced by others."""

    def put(place: int, length: int, new: bytes) -> bytes:
        return valid[:place] + new + valid[place + length :]

    return st.builds(put, st.integers(0, len(valid)), st.integers(0, 8), st.binary(max_size=8))


FLAGS = b"lr: 0.1\nworld: [0, 1]\nexperiment: demo\nlr_milestones: 1,2\ninclude: other.yaml\n"
YAML = text_of(
    *("lr", "world", "experiment", "include", "config", ": ", ":\n  ", "- ", "[", "]", "{", "}"),
    *("0.1", "1, 2", ".nan", "~", "demo", NAME, "other.yaml", ".", "&a ", "*a", "<<", "? ", "| "),
    *("!!python/object/apply:os.mkdir [mark]", "!!binary ", "---\n", "...\n", "%YAML 9\n", '"\\0"'),
)
HOSTS = b"# hosts\nlocalhost slots=2\nnode-1.example.org slots=16\n10.0.0.2\n"
HOST = text_of("localhost", " slots=", "slots", "=", "2", "0", "a", ".", ",", ":", ";sh", "$(sh)")
EDGES, MATRIX = b"0 1\n1 2\n2 3\n3 0\n", b".5 .25 .25\n.25 .5 .25\n.25 .25 .5\n"
GRAPH = text_of(
    "0", "1", "2", "3", "1/3", ".25", "nan", "inf", "1e999", "1/0", "/", "0 1\n", "1 2\n"
)

PARSERS: dict[str, tuple[Callable[[str], object], SearchStrategy[bytes]]] = {
    "flags": (lambda path: parse(["--config", path]), YAML | changed(FLAGS)),
    "hosts": (read_hostfile, HOST | changed(HOSTS)),
    "graph": (lambda path: make_topology(path, 3), GRAPH | changed(EDGES) | changed(MATRIX)),
}


@pytest.mark.parametrize(("read", "near"), PARSERS.values(), ids=PARSERS)
@given(data=st.data())
def test_any_file_is_read_or_refused_in_one_line(
    read: Callable[[str], object], near: SearchStrategy[bytes], data: st.DataObject
) -> None:
    content = data.draw(st.binary(max_size=300) | near)
    with TemporaryDirectory() as place:
        folder = Path(place)
        (folder / NAME).write_bytes(content)
        (folder / "other.yaml").write_text("lr: 1\n")
        before = listing(folder)
        message = "one line"
        try:
            read(str(folder / NAME))
        except UserError as error:
            message = str(error)
        assert len(message.splitlines()) == 1
        assert message.isprintable()
        assert len(message) < 1000
        assert listing(folder) == before


@pytest.mark.parametrize("valid", [FLAGS, HOSTS, EDGES, MATRIX], ids=["flags", "hosts", "e", "m"])
def test_what_is_changed_was_valid(tmp_path: Path, valid: bytes) -> None:
    (tmp_path / NAME).write_bytes(valid)
    (tmp_path / "other.yaml").write_text("lr: 1\n")
    path = str(tmp_path / NAME)
    if valid == FLAGS:
        assert parse(["--config", path]).config.flat()["lr"] == 0.1
    elif valid == HOSTS:
        assert [host.slots for host in read_hostfile(path)] == [2, 16, 1]
    else:
        assert make_topology(path, 4 if valid == EDGES else 3).degree(0) == 2
