"""Word vectors in GloVe's text format."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcode.datasets.text import load_embeddings
from pcode.utils.errors import UserError

LINES = "the 0.5 -1 2e-1\n. . . 1 2 3\nbe 4 5 6 \nunused a b c\n"


def test_rows_of_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "glove.6B.3d.txt").write_text(LINES, encoding="utf-8")
    (tmp_path / "glove.6B.2d.txt").write_text("the 1 2\n", encoding="utf-8")
    rows, known = load_embeddings(str(tmp_path), ["be", "or", "the", ". . ."], 3)
    assert known.tolist() == [True, False, True, True]
    assert rows.numpy().tolist() == [
        [4, 5, 6],
        [0, 0, 0],
        [0.5, -1, pytest.approx(0.2)],
        [1, 2, 3],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"the 1 2 3\nbe 1 2\n", r"line 2: not a word and 3 numbers"),
        (b"or 1 2 3\nthe 1 x 3\n", r"line 2: could not convert string to float: 'x'"),
        (b"the 1 nan 3\n", r"line 1: not finite"),
        (b"or 1 2 3\n", r"has none of the 2 words"),
        (b"\xff 1 2 3\n", r"not a text file \(UTF-8\)"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "glove.3d.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"glove\.3d\.txt.*{message}") as caught:
        load_embeddings(str(tmp_path), ["the", "be"], 3)
    assert "\n" not in str(caught.value)


def test_there_must_be_one_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exactly one file .*\*\.3d\.txt .*found: none"):
        load_embeddings(str(tmp_path), ["the"], 3)
    for name in ("a.3d.txt", "b.3d.txt"):
        (tmp_path / name).write_text("the 1 2 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"found: a\.3d\.txt, b\.3d\.txt"):
        load_embeddings(str(tmp_path), ["the"], 3)
