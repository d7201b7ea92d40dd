"""The kernels as Triton compiles them for a GPU, which need not be there."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="there is no Triton for this machine")

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("triton.backends.nvidia") is None, reason="Triton has no compiler for NVIDIA here"
)
def test_launches_compile_for_a_gpu_and_round_as_a_cpu(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    # The interpreter of the other tests compiles nothing.
    environment.pop("TRITON_INTERPRET", None)
    compiled = subprocess.run(
        [sys.executable, "-m", "tests.compression.gpu.compiled"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr
    for name in ("none", "sign", "compress_top_k-0.99", "compress_random_k-0.99"):
        assert f"{name}: _encode: " in compiled.stdout
