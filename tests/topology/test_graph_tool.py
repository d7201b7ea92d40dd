"""`python -m pcode.tools.graph` as users call it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import ROOT


def graph_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pcode.tools.graph", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("name", "num_nodes", "lines"),
    [
        ("social", 32, ["graph: social, 32 nodes, 89 edges", "2 to 14", "rho: 0.09033"]),
        ("torus", 16, ["32 edges", "rho: 0.4", "beta = ||I - W||: 1.6", "delta = 1: 0.0102"]),
        ("random_matching", 9, ["other edges in every round", "gap, a round: 0.2929"]),
    ],
)
def test_numbers_and_picture(tmp_path: Path, name: str, num_nodes: int, lines: list[str]) -> None:
    picture = tmp_path / "graph.png"
    done = graph_tool(
        "--graph_topology", name, "--n_mpi_process", f"{num_nodes}", "--picture", f"{picture}"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert all(line in done.stdout for line in [*lines, f"picture: {picture}"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert 10_000 < picture.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--graph_topology", "hypercube", "--n_mpi_process", "12"], "n = 12: .* 8 or 16"),
        (["--n_mpi_process", "many"], "n_mpi_process"),
        (["--n_mpi_process", "5000"], "at most 4096"),
        (["--picture", "graph.docx"], "suffix"),
        (["--picture", "nowhere/graph.png"], "existing folder"),
        (["--pictures", "graph.png"], "pictures"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, arguments: list[str], reason: str
) -> None:
    if "--picture" not in arguments:
        arguments = [*arguments, "--picture", str(tmp_path / "graph.png")]
    done = graph_tool(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert re.match(f"graph: error: .*{reason}", done.stderr)
    assert not list(tmp_path.iterdir())
