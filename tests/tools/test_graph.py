"""The graph tool, as a user starts it."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import pytest

from pcode.tools.graph import main
from tests.support.programs import ROOT, quick_python, run_command

mpl.use("Agg")


def test_from_the_shell(tmp_path: Path) -> None:
    picture = tmp_path / "graph.png"
    flags = ["--graph_topology", "social", "--n_mpi_process", "32", "--picture", str(picture)]
    ended = run_command([quick_python(), "-m", "pcode.tools.graph", *flags], ROOT, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "graph: social, 32 nodes, 89 edges" in ended.stdout
    assert "spectral gap rho: 0.0903" in ended.stdout
    assert str(picture) in ended.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "name", ["ring", "torus", "star", "random_regular", "one_peer_exponential", "random_matching"]
)
def test_a_picture_shows_something_and_is_always_the_same(tmp_path: Path, name: str) -> None:
    files = [tmp_path / "1.png", tmp_path / "2.png"]
    for file in files:
        assert main(["--graph_topology", name, "--n_mpi_process", "9", "--picture", str(file)]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    pixels = matplotlib.image.imread(files[0])[..., :3]
    assert min(pixels.shape[:2]) > 500
    # Nodes and lines take more than a hundredth of it.
    assert (pixels.min(axis=2) < 0.95).mean() > 0.01


def test_the_name_of_a_file_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "$\\frac{$ \x1b[2J"
    file, picture = tmp_path / f"{name}.txt", tmp_path / "graph.svg"
    file.write_text("0 1\n1 2\n")
    with mpl.rc_context({"svg.fonttype": "none"}):
        flags = ["--graph_topology", str(file), "--n_mpi_process", "3", "--picture", str(picture)]
        assert main(flags) == 0
    assert all(line.isprintable() for line in capsys.readouterr().out.splitlines())
    assert "$\\frac{$ " in picture.read_text()


@pytest.mark.parametrize(
    "flags",
    [
        "--graph_topology moebius",
        "--graph_topology social --n_mpi_process 8",
        "--n_mpi_process many",
        "--n_mpi_process 100000",
        "--picture graph.txt",
        "--picture nowhere/graph.png",
        "--no_such_flag 1",
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(flags.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("graph: error: ")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
