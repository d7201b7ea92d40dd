"""Compressors' own methods call the GPU's kernels for vectors on a GPU, and only for those."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from pcode.compression import Message
from pcode.utils.layout import Layout

pytest.importorskip("triton", reason="there is no Triton for this machine")
from tests.compression.gpu.cases import CASES, Case, drawn, room

# NumPy speaks of what every processor does.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning:triton")

WITHOUT_TRITON = """
import sys, torch
from pcode.compression import COMPRESSORS, Message
from pcode.utils.layout import Layout
layout, vector = Layout.of_sizes([10]), torch.ones(10)
for kind in COMPRESSORS.values():
    message = Message(torch.zeros(kind().message_bytes(layout), dtype=torch.uint8))
    kind().encode(layout, vector, None, message)
    kind().accumulate(layout, [message], [vector], [[1.0]])
sys.exit("triton" in sys.modules)
"""


class OnGPU(torch.Tensor):
    """A tensor that says it is on a GPU, for the interpreter, which takes what is on the CPU."""

    is_cuda = True
    device = torch.device("cuda:0")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_vectors_on_a_gpu_go_to_its_kernels(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("encode", "accumulate"):
        monkeypatch.setattr(case.kernels, name, lambda *_, name=name, **__: calls.append(name))
    layout, compressor = Layout.of_sizes([10]), case.compressor()
    payload = room(case, layout, torch.device("cpu")).payload.as_subclass(OnGPU)
    message, vector = Message(payload), drawn(layout, 1).as_subclass(OnGPU)
    compressor.encode(layout, vector, None, message)
    compressor.accumulate(layout, [message], [vector], [[1.0]])
    assert calls == ["encode", "accumulate"]
    with pytest.raises(ValueError, match="expected a contiguous"):
        compressor.encode(layout, vector[1:], None, message)


def test_no_process_that_computes_on_cpus_imports_triton() -> None:
    assert subprocess.run([sys.executable, "-c", WITHOUT_TRITON], check=False).returncode == 0
