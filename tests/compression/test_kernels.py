"""Kernels on another processor, without a place to write to, and from several threads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pcode.compression import COMPRESSORS, Message, make_compressor
from pcode.layout import Layout

LAYOUT = Layout.of_sizes([100_003, 16, 3])


def digest_of_a_round(name: str, seed: int = 0) -> str:
    """The bits of a message and of what it adds."""
    generator = torch.Generator().manual_seed(seed)
    value, reference, target = (
        torch.randn(LAYOUT.num_entries, generator=generator) for _ in range(3)
    )
    compressor = make_compressor(name)
    message = Message(torch.empty(compressor.message_bytes(LAYOUT), dtype=torch.uint8))
    compressor.encode(LAYOUT, value, reference, message)
    compressor.accumulate(LAYOUT, [message, message], [target], [[0.3, 0.7]])
    data = message.payload.numpy().tobytes() + target.numpy().tobytes()
    return hashlib.sha256(data).hexdigest()


ELSEWHERE = """
from pcode.compression.kernels import dense, sign
assert not sign.encode.signatures and not dense.difference.signatures, "compiled by an import"
from test_kernels import digest_of_a_round
print(digest_of_a_round("none"), digest_of_a_round("sign"))
"""


def test_a_processor_without_wide_vectors_gives_the_same_bits(tmp_path: Path) -> None:
    # Nothing can be written below a file: the kernels must do without a cache.
    nowhere = str(tmp_path / "file")
    Path(nowhere).touch()
    environment = os.environ | {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": nowhere,
        "HOME": nowhere,
        "XDG_CACHE_HOME": nowhere,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [digest_of_a_round("none"), digest_of_a_round("sign")]


@pytest.mark.parametrize("name", COMPRESSORS)
def test_one_compressor_serves_many_threads(name: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(digest_of_a_round, [name] * 8, range(8)))
    assert digests == [digest_of_a_round(name, seed) for seed in range(8)]
