"""A table of the paper, rehearsed for an epoch in a few of its cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcode.tools.reproduce import CELLS, PAPER, Cell, draw, main, markdown, run_all


def test_the_table_is_the_paper_s() -> None:
    assert len(CELLS) == 1 + 3 * 11
    assert PAPER["CHOCO"]["sign"] == 92.46
    assert PAPER["CHOCO"]["random 1 %"] == 91.32
    assert PAPER["DCD"]["qsgd 4"] == 23.56
    assert PAPER["DCD"]["top 1 %"] == 89.79
    assert PAPER["DCD"]["random 10 %"] is None
    assert PAPER["ECD"]["qsgd 8"] == 59.11
    assert PAPER["ECD"]["top 50 %"] == 17.03


def test_cells_run_once_and_what_diverges_is_told_apart(tmp_path: Path) -> None:
    cells = [Cell("CHOCO", "sign"), Cell("DCD", "qsgd 2")]
    results = run_all(cells, range(1, 2), 8, tmp_path, 2)
    assert results[cells[1]] == [None]
    assert all(figure is not None and figure > 80 for figure in results[cells[0]])
    folders = sorted(tmp_path.glob("digits/resnet20/CHOCO-*/*"))
    assert len(folders) == 1
    assert run_all(cells, range(1, 2), 8, tmp_path, 2) == results
    assert sorted(tmp_path.glob("digits/resnet20/CHOCO-*/*")) == folders

    whole = {cell: results[cells[cell.law == "DCD"]] for cell in CELLS}
    table = markdown(whole)
    (line,) = [line for line in table.splitlines() if line.startswith("| qsgd 2 |")]
    assert line.split(" | ")[1:3] == ["div", "div"]
    assert line.endswith(" | 91.41 |")
    draw(whole, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "table9",
        "table1 --epochs 0",
        "table1 --jobs x",
        "table1 --picture x.txt",
        "table1 --output nowhere/x.json",
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(flags.split()) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("reproduce: error: ")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
