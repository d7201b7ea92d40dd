"""python -m pcode.tools.consensus."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pcode.tools.consensus import main

SMALL = ["--n_mpi_process", "8", "--entries", "12,5", "--rounds", "60"]


def test_from_the_shell(tmp_path: Path) -> None:
    picture, output = tmp_path / "consensus.png", tmp_path / "consensus.json"
    flags = ["--graph_topology", "ring,complete", "--comm_op", "none,sign"]
    files = ["--picture", str(picture), "--output", str(output)]
    ended = subprocess.run(
        [sys.executable, "-m", "pcode.tools.consensus", *SMALL, *flags, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert len(lines) == 6
    assert len({line.count("|") for line in lines}) == 1
    assert picture.read_bytes().startswith(b"\x89PNG")
    content = json.loads(output.read_text())
    assert content["options"]["entries"] == [12, 5]
    first = content["measurements"][0]
    assert (first["graph"], first["compressor"]) == ("ring", "none")
    assert first["message_bytes"] == 4 * 17
    assert first["round_bytes"] == 2 * 4 * 17
    assert len(first["course"]["errors"]) == 61


def test_gamma_and_start_as_given(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--consensus_stepsize", "0.25", "--comm_op", "none", "--start", "slowest"]
    assert main([*SMALL, *flags]) == 0
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[2].split("|")]
    assert cells[6] == "0.25"
    assert float(cells[8]) == pytest.approx(float(cells[9]), rel=1e-2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--graph_topology nowhere", "nowhere"),
        ("--comm_op sign,morse", "--comm_op 'morse'"),
        ("--consensus_stepsize 2", "--consensus_stepsize 2: must be"),
        ("--entries 10,x", "--entries '10,x'"),
        ("--entries 0", "--entries 0: must be at least 1"),
        ("--rounds 0", "--rounds 0: must be at least 1"),
        ("--start middle", "--start 'middle'"),
        ("--picture {folder}/a.txt", "must end in .png"),
        ("--picture {folder}/none/a.png", "cannot write there"),
        ("--output {folder}", "cannot write there"),
        ("--round 3", "unrecognized arguments: --round 3"),
    ],
)
def test_a_mistake_is_one_line(
    flags: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.json"
    assert main(["--output", str(output), *flags.format(folder=tmp_path).split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("consensus: error: ")
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert list(tmp_path.iterdir()) == []
