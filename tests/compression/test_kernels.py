"""Kernels on another processor, without a place to write to, and from several threads."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import pcode
from pcode.compression import COMPRESSORS, Message, make_compressor
from pcode.compression.parallel import ENTRIES_PER_THREAD, SEGMENT_ENTRIES, run_segments
from pcode.layout import Layout

LAYOUT = Layout.of_sizes([100_003, 16, 3])
# Worth three threads, and shared among them within a tensor, even where few entries are kept.
LARGE_LAYOUT = Layout.of_sizes([*[50] * 100, 1_700_000, 16, 65_536, 3])


def digest_of_a_round(name: str, seed: int = 0, layout: Layout = LAYOUT) -> str:
    """The bits of two messages and of what they add."""
    generator = torch.Generator().manual_seed(seed)
    value, reference, target = (
        torch.randn(layout.num_entries, generator=generator) for _ in range(3)
    )
    compressor = make_compressor(name)
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
from pcode.compression.kernels import dense, random_k, sign, top_k
for kernel in (dense.difference, random_k.encode, sign.encode, top_k.select):
    assert not kernel.signatures, "compiled by an import"
from test_kernels import COMPRESSORS, digest_of_a_round
print(*map(digest_of_a_round, COMPRESSORS))
assert sign.encode.stats.cache_path is None, "kept where nothing can be"
"""
# Where a kernel's machine code came from: read from disk, and compiled.
COUNTS = """
from test_kernels import digest_of_a_round
from pcode.compression.kernels import sign
digest_of_a_round("sign")
stats = sign.encode.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_a_processor_without_wide_vectors_gives_the_same_bits(tmp_path: Path) -> None:
    # Nothing can be written below a file: the kernels must do without a cache.
    nowhere = str(tmp_path / "file")
    Path(nowhere).touch()
    package = Path(pcode.__file__).parent
    shutil.copytree(package, tmp_path / "pcode", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pcode/compression/kernels/__pycache__").touch()
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
    places = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", COUNTS]
    environment = os.environ | {"PYTHONPATH": places}
    for _ in range(2):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
    assert done.stdout.split() == ["1", "0"]


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
