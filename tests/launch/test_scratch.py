"""mpirun's folder: fresh, short, gone at the end, and at the next start if it was left."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from pcode.launch import scratch
from pcode.launch.scratch import scratch_folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders are made in this test."""
    monkeypatch.setattr(scratch, "_MEMORY", tmp_path)
    return tmp_path


def test_it_goes_with_all_that_lies_in_it(place: Path) -> None:
    with scratch_folder() as found, scratch_folder() as other:
        assert found.folder.parent == place
        assert found.folder != other.folder
        assert found.folder.stat().st_mode & 0o077 == 0
        (found.folder / "ompi.1").mkdir()
        (found.folder / "ompi.1" / "file").touch()
    assert list(place.iterdir()) == []


def test_sockets_fit_where_temporary_files_have_a_long_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = tmp_path / ("x" * 60)
    far.mkdir()
    monkeypatch.setattr(scratch, "_MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "tempdir", str(far))
    with scratch_folder() as found:
        assert len(os.fsencode(found.folder)) <= 32


def test_a_place_that_takes_no_folder_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_MEMORY", Path("/proc"))
    with scratch_folder() as found:
        assert found.folder.parent != Path("/proc")


def test_folders_of_killed_launchers_go_and_those_in_use_stay(place: Path) -> None:
    with scratch_folder() as used:
        shutil.copytree(used.folder, place / "pcode-left")
        (place / "pcode-young").mkdir()
        (place / "pcode-closed").mkdir(mode=0)  # as another user's is
        (place / "other").mkdir()
        (place / "pcode-link").symlink_to(place / "other")
        with scratch_folder():
            pass
        left = {folder.name for folder in place.iterdir()}
        assert left == {used.folder.name, "pcode-young", "pcode-closed", "other", "pcode-link"}


def test_only_ranks_of_this_machine_are_told_where_their_memory_lies(place: Path) -> None:
    with scratch_folder() as found:
        assert found.flags(here=False) == ["--prtemca", "prte_local_tmpdir_base", str(found.folder)]
        assert found.flags(here=True)[3:] == [
            *("--mca", "btl_sm_backing_directory", str(found.folder))
        ]
