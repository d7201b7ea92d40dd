"""Cached copies of data files: who makes them, who reads them, and which are not believed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pcode.datasets.data_files import cached_copy
from tests.support.programs import ROOT, run_program

COPY = """
import os, sys
from pathlib import Path
from pcode.datasets.data_files import cached_copy
with cached_copy(Path(sys.argv[1]), "layout", lambda file: None) as (file, _):
    print(oct(os.fstat(file.fileno()).st_mode & 0o777))
"""


def test_a_copy_where_the_source_s_group_has_no_number(tmp_path: Path) -> None:
    """As in a container that another user than root starts."""
    namespace = ("unshare", "--user", "--map-root-user")
    try:
        subprocess.run([*namespace, "true"], check=True, capture_output=True)
        source = tmp_path / "source"
        source.touch(0o644)
        os.chown(source, -1, 1234)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this user cannot make one: {error}")
    done = run_program([*namespace, sys.executable, "-c", COPY, str(source)], ROOT, 60, {})
    assert done.stdout == "0o604\n", done.stderr


def test_a_copy_is_private_before_it_is_written(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch(0o600)
    modes = []

    def make(file: Any) -> None:
        modes.append(os.fstat(file.fileno()).st_mode & 0o777)

    with cached_copy(source, "layout", make):
        assert modes == [0o600]


def test_a_copy_of_another_users_in_a_folder_for_all_is_not_used(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives a file to another user")
    source = tmp_path / "source"
    source.write_text("abc")

    def copy(content: bytes) -> bytes:
        with cached_copy(source, "layout", lambda file: file.writelines([content])) as (file, _):
            return file.read()

    assert copy(b"mine") == b"mine"
    for mode, expected in ((0o777, b"mine"), (0o1777, b"anew")):
        os.chown(tmp_path / "source.kept", 1234, -1)
        tmp_path.chmod(mode)
        assert copy(b"anew") == expected


@pytest.mark.parametrize("name", ["source.kept", "source.lock"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_lies_in_the_place_of_a_copy_or_lock(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "source").write_text("abc")
    other = tmp_path / "other"
    if kind == "link":
        (tmp_path / name).symlink_to(other)
    else:
        os.mkfifo(tmp_path / name)
    with (
        suppress(OSError),
        cached_copy(tmp_path / "source", "layout", lambda file: file.writelines([b"ABC"])) as copy,
    ):
        assert copy[0].read() == b"ABC"
    assert not other.exists()


def test_of_several_that_ask_one_makes_the_copy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("abc")
    made, read = [], []
    together = threading.Barrier(4)

    def make(file: Any) -> None:
        made.append(1)
        file.write(source.read_bytes().upper())

    def ask() -> None:
        together.wait()
        with cached_copy(source, "capitals", make) as (file, num_bytes):
            read.append((file.read(), num_bytes))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [(b"ABC", 3)] * 4
    assert made == [1]


def test_a_copy_of_another_layout_is_made_anew(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_text("abc")

    def copy(layout: str, content: bytes) -> bytes:
        with cached_copy(source, layout, lambda file: file.writelines([content])) as (file, _):
            return file.read()

    assert copy("capitals", b"ABC") == b"ABC"
    assert copy("capitals", b"not made") == b"ABC"
    assert copy("twice", b"abcabc") == b"abcabc"
