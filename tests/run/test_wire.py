"""The bytes that MPI itself counts are the bytes that a run reports."""

from __future__ import annotations

from pathlib import Path

from pcode.compression import make_compressor
from pcode.layout import Layout
from pcode.models import make_model
from tests.launching import run_mpi

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


def test_mpi_is_handed_what_is_counted(tmp_path: Path) -> None:
    num_ranks = 3
    totals = []
    for num_steps in (3, 10):
        folder = tmp_path / str(num_steps)
        folder.mkdir()
        done = run_mpi(
            num_ranks,
            [PROGRAM, str(num_steps)],
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


def test_sign_sends_a_bit_for_each_entry_and_a_norm_for_each_tensor() -> None:
    layout = Layout.of(make_model("resnet20", 3, 32, 10, seed=1).named_parameters())
    assert layout.num_entries == 272_474
    want = sum(-(-size // 8) + 4 for size in layout.sizes)
    assert make_compressor("sign").message_bytes(layout) == want
    assert want == 34_060 + 4 * layout.num_tensors
