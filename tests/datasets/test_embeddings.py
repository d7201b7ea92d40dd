"""Word vectors in GloVe's text format."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pcode.datasets.word_vectors import load_embeddings
from pcode.utils.errors import UserError

LINES = "the 0.5 -1 2e-1\n. . . 1 2 3\nbe 4 5 6 \nunused a b c\n"


def test_rows_of_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "glove.6B.3d.txt").write_text(LINES, encoding="utf-8")
    (tmp_path / "glove.6B.2d.txt").write_text("the 1 2\n", encoding="utf-8")
    rows, known, notices = load_embeddings(str(tmp_path), ["be", "or", "the", ". . ."], 3)
    assert notices == ()
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
        (b"the 1 2 3\nbe 1 2\n", r"line 2: not a word and a vector of dimension 3"),
        (b"or 1 2 3\nthe 1 x 3\n", r"line 2: could not convert string to float: 'x'"),
        (b"the 1 nan 3\n", r"line 1: not finite"),
        (b"or 1 2 3\n", r"has none of the words of the vocabulary \(2\)"),
        (b"\xff 1 2 3\n", r"has none of the words of the vocabulary \(2\)"),
        (b"2 4\nthe 1 2 3\n", r"line 1: not a word and a vector of dimension 3"),
        (b"the 1 2 3\n2 3\n", r"line 2: not a word and a vector of dimension 3"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "glove.3d.txt").write_bytes(content)
    with pytest.raises(UserError, match=rf"glove\.3d\.txt.*{message}") as caught:
        load_embeddings(str(tmp_path), ["the", "be"], 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"2 3\nthe 1 2 3\nbe 4 5 6\n",  # gensim, word2vec
        b"2 3\r\nthe 1 2 3 \r\nbe 4 5 6 \r\n",  # fastText, with a blank at the end
        b"\n\nthe 1 2 3\n\nbe 4 5 6\n\n",
        b"the\t1\t2\t3\nbe\t4\t5\t6\n",
        b"\xef\xbb\xbfthe 1 2 3\nbe 4 5 6\n",
        b"\xef\xbb\xbf2 3\nthe 1 2 3\nbe 4 5 6",
        b" 7 8 9\nthe 1 2 3\nat me@example.org 7 8 9\nbe 4 5 6",  # GloVe's 840B
    ],
)
def test_as_others_write_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "glove.3d.txt").write_bytes(content)
    rows, known, notices = load_embeddings(str(tmp_path), ["the", "be", "or"], 3)
    assert rows.tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, 0]]
    assert known.tolist() == [True, True, False]
    assert notices == ()


def test_words_that_are_not_utf_8_are_counted(tmp_path: Path) -> None:
    (tmp_path / "some.3d.txt").write_bytes(
        b"\xff 1 2 3\nthe 1 2 3\ncaf\xe9 1 2 3\n\xc3\xa9 4 5 6\n"
    )
    rows, _, notices = load_embeddings(str(tmp_path), ["\xe9", "the"], 3)
    assert rows.tolist() == [[4, 5, 6], [1, 2, 3]]
    assert notices == (f"{tmp_path}/some.3d.txt: skipped words that are not UTF-8: 2",)


@pytest.mark.parametrize(
    "name",
    [
        "wiki_giga_2024_3_MFT20_vectors_seed_2024_alpha_0.75_eta_0.05_combined.txt",
        "dolma_3_2024_1.2M.100_combined.txt",
        "cc.en.3.vec",
        "vectors.txt",
        "cc.en.3.vec.gz",
        "glove.6B.3d.txt.gz",
    ],
)
def test_files_are_known_by_what_they_hold(tmp_path: Path, name: str) -> None:
    header = "2 3\n" if ".vec" in name else ""
    content = f"{header}the 1 2 3\nbe 4 5 6\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7Mac OS X")
    (tmp_path / "of_4.vec").write_text("1 4\nthe 1 2 3 4\n")
    (tmp_path / "of_4.txt").write_text("the 1 2 3 4\n")
    (tmp_path / "notes.txt").write_text("there is a text beside it\n")
    (tmp_path / "table.txt").write_text("0.25 0.25 0.25 0.25\n" * 4)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder.txt").mkdir()
    assert load_embeddings(str(tmp_path), ["the"], 3)[0].tolist() == [[1, 2, 3]]
    with pytest.raises(UserError, match=r"found: of_4\.txt, of_4\.vec$"):
        load_embeddings(str(tmp_path), ["the"], 4)
    (tmp_path / "glove.6B.4d.txt").write_text("the 5 6 7 8\n")  # GloVe's name is enough
    assert load_embeddings(str(tmp_path), ["the"], 4)[0].tolist() == [[5, 6, 7, 8]]


def test_a_name_that_says_the_dimension_is_enough(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("Hello 1 2 3\n")
    (tmp_path / "of.3d.vec").write_text("1 3\nthe 4 5 6\n")
    assert load_embeddings(str(tmp_path), ["the"], 3)[0].tolist() == [[4, 5, 6]]
    (tmp_path / "of.3d.vec").rename(tmp_path / "of.4d.vec")
    (tmp_path / "v.3d.txt.gz").write_bytes(gzip.compress(b"the 7 8 9\n"))
    assert load_embeddings(str(tmp_path), ["the"], 3)[0].tolist() == [[7, 8, 9]]
    (tmp_path / "v.3d.txt").write_text("the 1 2 3\n")  # it comes before what is compressed
    assert load_embeddings(str(tmp_path), ["the"], 3)[0].tolist() == [[1, 2, 3]]
    (tmp_path / "v.3d.txt").unlink()
    (tmp_path / "v.3d.txt.gz").write_bytes(gzip.compress(b"the 7 8 9\n" * 99)[:-9])
    with pytest.raises(UserError, match=r"v\.3d\.txt\.gz cannot be read"):
        load_embeddings(str(tmp_path), ["the"], 3)


def test_the_dimensions_of_other_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.vec").write_text("1 4\nthe 1 2 3 4\n")
    (tmp_path / "b.txt").write_text("the 1\n")
    (tmp_path / "d.txt").write_text("a text\n")
    with pytest.raises(
        UserError, match=r"none; a\.vec is of dimension 4; b\.txt is of dimension 1$"
    ):
        load_embeddings(str(tmp_path), ["the"], 3)


def test_a_first_line_of_count_and_1_is_a_words(tmp_path: Path) -> None:
    (tmp_path / "v.1d.txt").write_text("2 1\nthe 5\n")
    assert load_embeddings(str(tmp_path), ["the", "2"], 1)[0].tolist() == [[5], [1]]


def test_there_must_be_one_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exactly one file .*\*\.3d\.txt, .*found: none$"):
        load_embeddings(str(tmp_path), ["the"], 3)
    for name in ("a.3d.txt", "b.3d.txt"):
        (tmp_path / name).write_text("the 1 2 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"found: a\.3d\.txt, b\.3d\.txt"):
        load_embeddings(str(tmp_path), ["the"], 3)
