"""The bytes that MPI itself counts are the bytes that a run reports."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet50

from pcode.compression import Message, make_compressor
from pcode.compression.selection import selected_of
from pcode.models import make_model
from pcode.utils.layout import Layout
from tests.support.programs import run_mpi

PROGRAM = str(Path(__file__).with_name("wire_program.py"))


def counted(folder: Path) -> dict[tuple[int, int], tuple[int, int]]:
    """(from, to) -> bytes and messages, from the files of Open MPI's monitoring component.

    Lines that begin with E are the program's own messages, not those that MPI adds.
    """
    found = {}
    for file in folder.glob("counted.*.prof"):
        for line in file.read_text().splitlines():
            if line.startswith("E\t"):
                _, sender, receiver, volume, messages, *_ = line.split("\t")
                found[int(sender), int(receiver)] = (
                    int(volume.split()[0]),
                    int(messages.split()[0]),
                )
    return found


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("sign", {}),
        ("compress_top_k", {"compress_ratio": 0.99}),
        pytest.param("compress_random_k", {"compress_ratio": 0.99}, marks=pytest.mark.slow),
        pytest.param("quantize_qsgd", {"quantize_level": 4}, marks=pytest.mark.slow),
    ],
)
def test_mpi_is_handed_what_is_counted(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    num_ranks = 3
    totals = []
    for num_steps in (3, 10):
        folder = tmp_path / str(num_steps)
        folder.mkdir()
        done = run_mpi(
            num_ranks,
            [PROGRAM, str(num_steps), name, json.dumps(options)],
            timeout=120,
            env={
                "OMPI_MCA_pml_monitoring_enable": "2",
                "OMPI_MCA_pml_monitoring_enable_output": "3",
                "OMPI_MCA_pml_monitoring_filename": str(folder / "counted"),
            },
        )
        assert done.returncode == 0, done.stderr
        message_bytes, bytes_sent = map(int, done.stdout.splitlines()[0].split())
        assert bytes_sent == num_steps * 2 * message_bytes
        totals.append(counted(folder))
    # What starting and ending takes is in both.
    for rank in range(num_ranks):
        for peer in {(rank - 1) % num_ranks, (rank + 1) % num_ranks}:
            few, many = totals[0][rank, peer], totals[1][rank, peer]
            assert many[0] - few[0] == 7 * message_bytes
            assert many[1] - few[1] == 7


def resnet_layout(name: str) -> Layout:
    with torch.device("meta"):
        model = (
            resnet50()
            if name == "resnet50"
            else make_model(name, (3, 32, 32), 10, seed=1, flags={})
        )
    return Layout.of(model.named_parameters())


@pytest.mark.parametrize(("arch", "num_entries"), [("resnet20", 272_474), ("resnet50", 25_557_032)])
def test_messages_are_as_small_as_the_theory_allows(arch: str, num_entries: int) -> None:
    """Bits of a message that was encoded, less the norms: for each entry, or each selected one."""
    layout = resnet_layout(arch)
    assert layout.num_entries == num_entries
    selected = {ratio: sum(selected_of(layout.sizes, ratio)) for ratio in (0.5, 0.9, 0.99)}
    norms = 32 * layout.num_tensors
    # The last byte of a tensor's bits is filled up.
    filled = 8 * layout.num_tensors
    assert bits(layout, "none") == 32 * num_entries
    assert 0 <= bits(layout, "sign") - norms - num_entries < filled
    for ratio, num_selected in selected.items():
        assert bits(layout, "compress_random_k", compress_ratio=ratio) == 32 * num_selected
        positions = num_selected * (2 + math.log2(num_entries / num_selected))
        got = bits(layout, "compress_top_k", compress_ratio=ratio)
        assert 32 * num_selected < got <= 32 * num_selected + positions + 16
    assert got <= 41 * selected[0.99]
    for level in (1, 2, 4, 8, 16):
        got = bits(layout, "quantize_qsgd", quantize_level=level)
        assert 0 <= got - norms - (level + 1) * num_entries < 2 * filled
    assert bits(layout, "quantize_qsgd", quantize_level=32) == 32 * num_entries


def bits(layout: Layout, name: str, **options: Any) -> int:
    """Bits of a message, all of which the compressor has written."""
    compressor = make_compressor(name, **options)
    payload = torch.zeros(compressor.message_bytes(layout), dtype=torch.uint8)
    value = torch.randn(layout.num_entries, generator=torch.Generator().manual_seed(1))
    compressor.encode(layout, value, None, Message(payload))
    last = payload[-4:].clone()
    assert last.any(), "the end of the payload is not written"
    return 8 * payload.numel()
