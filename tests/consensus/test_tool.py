"""python -m pcode.tools.consensus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pcode.compression import COMPRESSORS
from pcode.tools.consensus import main
from pcode.topology import make_topology
from tests.consensus.wrong import Wrong
from tests.support.programs import ROOT, quick_python, run_command

SMALL = ["--n_mpi_process", "8", "--entries", "12,5", "--rounds", "60"]


def test_from_the_shell(tmp_path: Path) -> None:
    picture, output = tmp_path / "consensus.png", tmp_path / "consensus.json"
    flags = ["--graph_topology", "ring,complete", "--comm_op", "none,sign"]
    files = ["--picture", str(picture), "--output", str(output)]
    command = [quick_python(), "-m", "pcode.tools.consensus", *SMALL, *flags, *files]
    ended = run_command(command, ROOT, timeout=120)
    assert ended.returncode == 0, ended.stderr
    curves, _, rows = ended.stdout.rpartition("\n\n")
    assert curves.count("rounds of gossip on") == 4
    assert curves.startswith("ring, none\ngamma ")
    lines = rows.splitlines()
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
    assert cells[7] == "0.25"
    assert float(cells[8]) == pytest.approx(float(cells[9]), rel=1e-2)


def rows(printed: str) -> list[list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_the_graph_is_drawn_from_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--graph_topology", "random_regular:3", "--consensus_stepsize", "0.5"]
    for seed in (1, 2):
        assert main([*SMALL, *flags, "--comm_op", "none", "--manual_seed", str(seed)]) == 0
        expected = make_topology("random_regular:3", 8, seed).spectral_gap
        assert rows(capsys.readouterr().out)[1][2] == f"{expected:.3g}"


def test_names_say_what_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    names = "sign,compress_top_k,compress_random_k,quantize_qsgd"
    options = ["--compress_ratio", "0.75", "--quantize_level", "4", "--consensus_stepsize", "0.01"]
    assert main([*SMALL, "--comm_op", names, *options]) == 0
    printed = capsys.readouterr()
    assert [row[3] for row in rows(printed.out)[1:]] == [
        "sign",
        "top 25 %",
        "random 25 %",
        "qsgd 4",
    ]
    assert printed.err == ""


def test_flags_that_nothing_takes_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--compress_ratio", "0.5", "--is_biased", "False", "--consensus_stepsize", "0.5"]
    assert main([*SMALL, "--comm_op", "sign", *flags]) == 0
    error = capsys.readouterr().err
    assert error.startswith("consensus: warning: --compress_ratio, --is_biased: no compressor")
    assert error.count("\n") == 1


def test_a_search_that_fails_leaves_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(COMPRESSORS, "wrong", Wrong)
    output = tmp_path / "out.json"
    picture = ["--picture", str(tmp_path / "out.png")]
    assert main([*SMALL, "--comm_op", "wrong,none", "--output", str(output), *picture]) == 0
    printed = capsys.readouterr().out
    assert "ring, wrong\nno consensus step size" in printed
    assert rows(printed)[1][3:8] == ["wrong", "0.25", "68", "no gamma found", "-"]
    assert rows(printed)[2][3] == "none"
    content = json.loads(output.read_text())
    assert [each["compressor"] for each in content["measurements"]] == ["none"]
    assert [each["compressor"] for each in content["without_gamma"]] == ["wrong"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--graph_topology nowhere", "nowhere"),
        ("--comm_op sign,morse", "--comm_op 'morse'"),
        ("--consensus_stepsize 2", "--consensus_stepsize 2.0: must be at most 1"),
        ("--entries 10,x", "--entries '10,x'"),
        ("--entries 0", "--entries 0: must be at least 1"),
        (
            "--n_mpi_process 4096 --entries 1000,1000000",
            "1,001,000 entries on every node take some",
        ),
        ("--rounds 0", "--rounds 0: must be at least 1"),
        ("--start middle", "--start 'middle'"),
        ("--picture {folder}/a.txt", "suffix must be one of .png"),
        ("--picture {folder}/none/a.png", "cannot be written"),
        ("--output {folder}", "cannot be written"),
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
