"""Kernels on another processor, without a place to write to, and from several threads."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import config
from numpy.typing import NDArray

import pcode
from pcode.compression import COMPRESSORS, Message, make_compressor
from pcode.compression.kernels.cpu import cache
from pcode.compression.kernels.cpu.parallel import (
    ENTRIES_PER_THREAD,
    SEGMENT_ENTRIES,
    run_segments,
)
from pcode.utils.layout import Layout

LAYOUT = Layout.of_sizes([100_003, 16, 3])
# Worth three threads, and shared among them within a tensor, even where few entries are kept.
LARGE_LAYOUT = Layout.of_sizes([*[50] * 100, 1_700_000, 16, 65_536, 3])


def digest_of_a_round(name: str, seed: int = 0, layout: Layout = LAYOUT, **options: object) -> str:
    """The bits of two messages and of what they add."""
    generator = torch.Generator().manual_seed(seed)
    value, reference, target = (
        torch.randn(layout.num_entries, generator=generator) for _ in range(3)
    )
    compressor = make_compressor(name, **options)
    messages = [
        Message(torch.empty(compressor.message_bytes(layout), dtype=torch.uint8), key)
        for key in (1, 2)
    ]
    compressor.encode(layout, value, reference, messages[0])
    compressor.encode(layout, reference, None, messages[1])
    compressor.accumulate(layout, messages, [target], [[0.3, 0.7]])
    digest = hashlib.sha256(target.numpy().tobytes())
    for message in messages:
        digest.update(message.payload.numpy().tobytes())
    return digest.hexdigest()


ELSEWHERE = """
import os
from numba.core.dispatcher import Dispatcher
from pcode.compression.none import cpu as none
from pcode.compression.qsgd import cpu as qsgd
from pcode.compression.random_k import cpu as random_k
from pcode.compression.sign import cpu as sign
from pcode.compression.top_k import cpu as top_k
for module in (none, qsgd, random_k, sign, top_k):
    kernels = [each for each in vars(module).values() if isinstance(each, Dispatcher)]
    assert kernels
    assert not any(kernel.signatures for kernel in kernels), "compiled by an import"
from test_kernels import COMPRESSORS, digest_of_a_round
print(*map(digest_of_a_round, COMPRESSORS))
assert sign._encode.stats.cache_path is None, "cached where nothing can be"
"""
# Where the machine code of the kernels came from, file by file: read from disk, and compiled.
COUNTS = """
from numba.core.dispatcher import Dispatcher
from pcode.compression.kernels.cpu import elias_fano
from pcode.compression.none import cpu as none
from pcode.compression.qsgd import cpu as qsgd
from pcode.compression.random_k import cpu as random_k
from pcode.compression.sign import cpu as sign
from pcode.compression.top_k import cpu as top_k
from test_kernels import COMPRESSORS, digest_of_a_round
for name in COMPRESSORS:
    digest_of_a_round(name)
digest_of_a_round("quantize_qsgd", quantize_level=4)
for module in (elias_fano, none, qsgd, random_k, sign, top_k):
    kernels = [each for each in vars(module).values() if isinstance(each, Dispatcher)]
    hits = sum(sum(each.stats.cache_hits.values()) for each in kernels)
    print(module.__name__, hits, sum(sum(each.stats.cache_misses.values()) for each in kernels))
"""
WHERE = """
import os
from test_kernels import digest_of_a_round
from pcode.compression.sign import cpu
digest_of_a_round("sign")
print(os.path.realpath(cpu._encode.stats.cache_path))
"""


def run_here(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": places} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )


@pytest.mark.slow
def test_a_processor_without_wide_vectors_gives_the_same_bits(tmp_path: Path) -> None:
    # Nothing can be written below a file: the kernels must do without a cache.
    nowhere = str(tmp_path / "file")
    Path(nowhere).touch()
    package = Path(pcode.__file__).parent
    shutil.copytree(package, tmp_path / "pcode", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pcode/compression/kernels/cpu/__pycache__").touch()
    environment = os.environ | {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": nowhere,
        "HOME": nowhere,
        "XDG_CACHE_HOME": nowhere,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parent), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*map(digest_of_a_round, COMPRESSORS)]


def test_a_second_process_need_not_compile() -> None:
    run_here(COUNTS)
    counts = [line.split() for line in run_here(COUNTS).stdout.splitlines()]
    assert len(counts) == 6
    for module, hits, misses in counts:
        assert int(hits) > 0, module
        assert int(misses) == 0, module


def test_a_place_that_the_user_has_set_for_numba_wins(tmp_path: Path) -> None:
    place = tmp_path / "set"
    done = run_here(WHERE, NUMBA_CACHE_DIR=str(place))
    (cached,) = place.iterdir()
    assert cached.name.startswith("kernels-")
    assert Path(done.stdout.strip()).is_relative_to(cached)


@pytest.mark.parametrize(
    ("setting", "cache_home", "found"),
    [("", "", False), ("", "relative", False), ("relative", "", True)],
)
def test_only_the_user_places_kernels_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, cache_home: str, found: bool
) -> None:
    nowhere = tmp_path / "file"
    nowhere.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cache, "HERE", nowhere)
    monkeypatch.setattr(config, "CACHE_DIR", setting)
    # What os.path.expanduser gives for a user without a home.
    monkeypatch.setenv("HOME", "~")
    monkeypatch.setenv("XDG_CACHE_HOME", cache_home)
    folder, _ = cache._find.__wrapped__()
    assert (folder is not None) == found
    if folder is not None:
        assert Path(folder).resolve().parent == tmp_path / "relative"
    assert {*tmp_path.iterdir()} == {nowhere, *[tmp_path / "relative"] * found}


def own(path: Path, mode: int = 0o755, owner: int = 0) -> None:
    path.chmod(mode)
    if owner:
        if os.geteuid():
            pytest.skip("only root gives a file to another user")
        os.chown(path, owner, -1)


OTHERS: dict[str, Callable[[Path], None]] = {
    "a folder for all": lambda found: own(found, 0o777),
    "a sticky folder for all": lambda found: own(found, 0o1777),
    "a folder for the group": lambda found: own(found, 0o775),
    "another user's folder": lambda found: own(found, owner=1234),
    "another user's, below": lambda found: own(found / "kernels_of_a_file", owner=1234),
    "another user's file": lambda found: own(found / "kernels_of_a_file/index", 0o644, 1234),
    "a file for all": lambda found: own(found / "kernels_of_a_file/index", 0o666),
    "a link": lambda found: (found / "link").symlink_to("/tmp"),
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """What kernels are in, as NUMBA_CACHE_DIR says, and where others would be made."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "set"))
    (tmp_path / "file").touch()
    monkeypatch.setattr(cache, "HERE", tmp_path / "file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    before = os.umask(0)
    found, _ = cache._find.__wrapped__()
    os.umask(before)
    assert found is not None
    folder = Path(found).resolve()
    assert folder.parent == tmp_path / "set"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (folder / "kernels_of_a_file").mkdir(0o755)
    (folder / "kernels_of_a_file/index").write_text("a pickle")
    return folder, tmp_path / "home/choco-sgd" / folder.name


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_kernels_that_another_user_could_have_written_are_not_used(
    places: tuple[Path, Path], change: Callable[[Path], None]
) -> None:
    made, other = places
    made.chmod(0o755)
    change(made)
    found, (notice,) = cache._find.__wrapped__()
    assert found is not None
    assert Path(found).resolve() == other
    assert notice.startswith(f"compiled kernels in {made} are not used: ")
    assert (made / "kernels_of_a_file/index").read_text() == "a pickle"


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_kernels_that_only_this_user_could_have_written_are_used(
    places: tuple[Path, Path], mode: int
) -> None:
    made, _ = places
    made.chmod(mode)
    if mode == 0o700:  # what the umask left open, where nobody else comes to
        (made / "kernels_of_a_file/index").chmod(0o666)
    made.parent.chmod(0o1777)
    found, notices = cache._find.__wrapped__()
    assert found is not None
    assert (Path(found).resolve(), notices) == (made, ())


def test_a_folder_that_is_put_in_the_place_of_kernels_is_not_used(
    places: tuple[Path, Path],
) -> None:
    made, _ = places
    found, _ = cache._find.__wrapped__()
    assert found is not None
    made.rename(made.with_name("before"))
    made.mkdir()
    (made / "index").write_text("another's")
    assert [path.name for path in Path(found).iterdir()] == ["kernels_of_a_file"]


@pytest.mark.parametrize("name", COMPRESSORS)
def test_one_compressor_serves_many_threads(name: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(digest_of_a_round, [name] * 8, range(8)))
    assert digests == [digest_of_a_round(name, seed) for seed in range(8)]


@pytest.mark.parametrize("name", COMPRESSORS)
def test_bits_do_not_depend_on_the_number_of_threads(name: str) -> None:
    before = torch.get_num_threads()
    digests = set()
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            digests.add(digest_of_a_round(name, layout=LARGE_LAYOUT))
    finally:
        torch.set_num_threads(before)
    assert len(digests) == 1


def test_threads_share_entries_and_stay_asleep_for_few() -> None:
    shares: list[int] = []

    def count(segments: NDArray[np.int64], first: int, last: int) -> None:
        shares.append(int(segments[first:last, 3].sum()))

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for sizes in (LARGE_LAYOUT.sizes, (50,) * 5000, (600_000,), (0,), ()):
            shares.clear()
            run_segments(count, sizes)
            assert sum(shares) == sum(sizes)
            assert len(shares) == max(1, min(3, sum(sizes) // ENTRIES_PER_THREAD))
            assert max(shares) - min(shares) <= 2 * SEGMENT_ENTRIES
    finally:
        torch.set_num_threads(before)
