"""The tool that makes an LMDB file of a folder of images."""

from __future__ import annotations

import json
from pathlib import Path

import lmdb
import pytest

from pcode.datasets.encoded_images import LmdbImages
from pcode.tools.to_lmdb import main
from pcode.utils.errors import UserError
from tests.support.programs import ROOT, quick_python, run_command

FILES = {"cats/a.jpg": b"miaow", "cats/b.PNG": b"purr" * 5000, "dogs/c.jpeg": b"woof"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "train" / "cats" / "notes.txt").write_text("not an image")
    return tmp_path / "train"


def test_from_the_shell(folder: Path) -> None:
    file = folder.parent / "train.lmdb"
    command = [quick_python(), "-m", "pcode.tools.to_lmdb", str(folder), str(file)]
    ended = run_command(command, ROOT, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"{file}: 3 images of 2 classes, {file.stat().st_size / 1e6:.1f} MB\n"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["train", "train.lmdb"]


def test_the_files_come_back_as_they_are(folder: Path) -> None:
    file = folder.parent / "train.lmdb"
    assert main([str(folder), str(file)]) == 0
    images = LmdbImages(file)
    assert images.classes == ["cats", "dogs"]
    assert images.labels.tolist() == [0, 0, 1]
    assert images.read([2, 0, 1]) == [FILES["dogs/c.jpeg"], b"miaow", b"purr" * 5000]
    with pytest.raises(UserError, match=r"train\.lmdb: lacks some of its images"):
        images.read([3])
    # As any other program reads it.
    with (
        lmdb.open(str(file), subdir=False, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        content = dict(transaction.cursor())
    assert json.loads(content.pop(b"meta"))["classes"] == ["cats", "dogs"]
    assert content.pop(b"labels") == bytes([0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])
    assert list(content) == [bytes(7) + bytes([index]) for index in range(3)]


def test_a_file_that_is_there_is_replaced_whole(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder.parent / "train.lmdb"
    assert main([str(folder), str(file)]) == 0
    before = LmdbImages(file)
    (folder / "dogs" / "d.jpg").symlink_to("nowhere")
    assert main([str(folder), str(file)]) == 2  # one image cannot be read
    assert "d.jpg: cannot be read: No such file" in capsys.readouterr().err
    assert before.read([0]) == [b"miaow"]
    (folder / "dogs" / "d.jpg").unlink()
    (folder / "dogs" / "d.jpg").write_bytes(b"wuff")
    assert main([str(folder), str(file)]) == 0
    assert LmdbImages(file).labels.tolist() == [0, 0, 1, 1]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["train", "train.lmdb"]


def test_another_lmdb_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.lmdb"
    with (
        lmdb.open(str(file), subdir=False, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"meta", b"3")
    with pytest.raises(UserError, match=r"other\.lmdb: was not made by python -m"):
        LmdbImages(file)


@pytest.mark.parametrize("arguments", [[], ["nowhere", "x.lmdb"], ["train", "nowhere/x.lmdb"]])
def test_a_mistake_is_one_line(
    folder: Path,
    arguments: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("to_lmdb: error: ")
    assert printed.err.count("\n") == 1
    assert [path.name for path in folder.parent.iterdir()] == ["train"]
