"""The graph tool, as a user starts it."""

from __future__ import annotations

import re
from collections import Counter
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
    "name",
    [
        "ring",
        "torus",
        "star",
        "random_regular",
        "spanning_tree:torus",
        "double_binary_trees",
        "directed_exponential",
        "one_peer_exponential",
        "random_matching",
        "base",
    ],
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


def texts(name: str, num_nodes: int, file: Path) -> str:
    """Draw a graph as SVG whose texts stay texts."""
    with mpl.rc_context({"svg.fonttype": "none"}):
        flags = ["--graph_topology", name, "--n_mpi_process", f"{num_nodes}", "--picture"]
        assert main([*flags, str(file)]) == 0
    return file.read_text()


@pytest.mark.parametrize(
    ("name", "num_nodes", "titles"),
    [
        ("base", 11, [f"round {step}" for step in range(7)]),
        ("equidyn", 8, [f"round {step}" for step in range(4)]),
        ("double_binary_trees", 7, ["tree 0", "tree 1"]),
        ("ring", 7, []),
    ],
)
def test_a_whole_period_is_shown_and_each_tree(
    tmp_path: Path, name: str, num_nodes: int, titles: list[str]
) -> None:
    svg = texts(name, num_nodes, tmp_path / "graph.svg")
    assert re.findall(r">((?:round|tree) \d+)<", svg) == titles
    # Every node by its number, once in each panel.
    numbers = Counter(re.findall(r">(\d+)<", svg))
    assert numbers == {str(rank): max(1, len(titles)) for rank in range(num_nodes)}


def test_the_arrows_of_a_directed_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An arrow for each link, of which one that leads both ways has two heads."""
    file = tmp_path / "graph.txt"
    heads = {}
    for name, text in (("circle", "0 1\n1 2\n2 0\n"), ("more", "0 1\n1 2\n2 0\n1 0\n")):
        file.write_text(text)
        svg = texts(f"directed:{file}", 3, tmp_path / "graph.svg")
        heads[name] = len(re.findall(r"(?s)<path [^>]*fill: #3b6ea5", svg))
    assert heads == {"circle": 3, "more": 4}
    assert "3 nodes, 4 one-way links\n  links out of a node: 1 to 2" in capsys.readouterr().out


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
