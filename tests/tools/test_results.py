"""The results tool: its figures, worked out by hand from small folders."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pcode.tools.results import main
from pcode.tools.results_picture import CONSENSUS, EPOCHS, course_figure
from pcode.tools.results_runs import find_runs
from tests.tools.result_folders import points_of, rows_of, runs_of, titles_of, write_run


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n").split(" | ")]


def test_the_worst_node_of_the_last_five_epochs(tmp_path: Path) -> None:
    """Of an evaluation after each of eight epochs, whose worst nodes have one less."""
    write_run(tmp_path / "run", {}, (90, 90, 90, 11, 21, 31, 41, 51))
    assert find_runs([tmp_path])["late_worst_test"].tolist() == [30]


def test_a_lost_first_node_does_not_end_the_course(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {}, (50, 60, 70, 80, 90, 81, 71))
    log = run / "0/log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:4]))  # two of its seven evaluations
    assert find_runs([tmp_path])["late_worst_test"].tolist() == [(70 + 80 + 90 + 81 + 71) / 5 - 1]


def test_the_table_says_what_the_runs_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs/a", {"optimizer": "sgd", "graph_topology": "complete"}, (70, 80.123))
    top_k = {"comm_op": "compress_top_k", "compress_ratio": 0.99}
    write_run(tmp_path / "runs/b", top_k, (60, 90, 85), steps=1000)
    files = [tmp_path / "table.md", tmp_path / "table.csv"]
    flags = ["--markdown", str(files[0]), "--csv", str(files[1])]
    assert main([str(tmp_path / "runs"), *flags]) == 0

    lines = files[0].read_text().splitlines()
    assert cells(lines[0])[:7] == [
        *("run", "nodes", "graph", "optimizer", "compressor", "epochs", "test top-1 (%)"),
    ]
    # 2 epochs of 10 steps at 1,500 bytes a node; 3 epochs of 1,000 steps.
    assert cells(lines[2]) == [
        *("sgd", "2", "complete", "sgd", "none", "2", "80.12", "79.12", "83.12"),
        *("80.12", "74.06", "0.25", "1.5 kB", "60 kB", "40", "4 s", "finished"),
    ]
    assert cells(lines[3]) == [
        *("parallel_choco", "2", "ring", "parallel_choco", "compress_top_k 0.99", "3"),
        *("85.00", "84.00", "88.00", "90.00", "77.33", "0.167", "1.5 kB", "9 MB", "40", "6 s"),
        "finished",
    ]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed] == [
        " ".join(cells(line)).split() for line in (lines[0], *lines[2:])
    ]
    # Names begin, and figures end, at one place.
    ends = {
        line.index(number) + len(number)
        for line, number in zip(printed[1:], ("60 kB", "9 MB"), strict=True)
    }
    assert len(ends) == 1
    assert len({line.rindex("  ") for line in printed}) == 1

    first, second = rows_of(files[1])
    assert float(first["test_top1"]) == 80.123
    assert float(second["best_test_top1"]) == 90
    assert float(second["consensus_distance"]) == 0.5 / 3
    assert int(second["bytes_total"]) == 9_000_000
    assert float(second["step_seconds"]) == 0.04
    assert (first["optimizer"], first["manual_seed"], first["data"]) == ("sgd", "6", "digits")
    assert second["compressor"] == "compress_top_k 0.99"
    assert Path(first["folder"]) == tmp_path / "runs/a"


def test_runs_that_differ_in_the_seed_only_are_one_row(tmp_path: Path) -> None:
    finals = {1: 80.0, 2: 83.0, 3: 89.0}
    for seed, final in finals.items():
        flags = {"manual_seed": seed, "checkpoint": f"/elsewhere/{seed}", "quantize_level": seed}
        write_run(tmp_path / f"runs/{seed}", {"comm_op": "sign", **flags}, (50 + seed, final))
    # quantize_level cannot matter with sign; another momentum does.
    write_run(tmp_path / "runs/4", {"comm_op": "sign", "momentum_factor": 0.5}, (75,))
    assert main([str(tmp_path), "--csv", str(tmp_path / "t.csv")]) == 0

    assert titles_of(tmp_path) == ["momentum_factor 0.9 (3 seeds)", "momentum_factor 0.5"]
    rows = rows_of(tmp_path / "t.csv")
    assert [float(row["test_top1"]) for row in rows] == [80, 83, 89, 75]
    assert [row["run"] for row in rows[:3]] == ["momentum_factor 0.9"] * 3

    markdown = tmp_path / "t.md"
    assert main([str(tmp_path), "--markdown", str(markdown)]) == 0
    (line,) = [line for line in markdown.read_text().splitlines() if "3 seeds" in line]
    # Mean 84; squares of the differences 16 + 1 + 25 over 2.
    assert f"84.00 ± {math.sqrt(21):.2f}" in line


def test_experiments_name_the_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"experiment": "one", "lr": 0.1}, (80,))
    write_run(tmp_path / "b", {"experiment": "one", "lr": 0.2}, (80,))
    write_run(tmp_path / "c", {"experiment": "two", "n_mpi_process": 4}, (80,))
    assert titles_of(tmp_path) == ["one, lr 0.1", "one, lr 0.2", "two"]
    # A single run, given twice, is one run.
    assert list(find_runs([tmp_path / "a", tmp_path / "a"])["folder"]) == [tmp_path / "a"]


def test_the_same_seed_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "1", {}, (70,))
    write_run(tmp_path / "2", {}, (80,))
    write_run(tmp_path / "3", {}, (60, 65), ending=None)
    runs = runs_of(tmp_path)
    assert runs["group"].nunique() == 1
    assert [folder.name for folder in runs["folder"][runs["is_counted"]]] == ["2"]
    assert main([str(tmp_path)]) == 0
    warnings = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in warnings] == [str(tmp_path / n) for n in ("1", "3")]


def test_a_run_that_did_not_end_is_shown_as_far_as_it_got(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"comm_op": "sign"}, (70, 75, 72), ending=None)
    log = folder / "0" / "log.jsonl"
    log.write_text(log.read_text() + '{"kind": "evaluation", "step": 40, "ep')
    # Node 1 has not come as far.
    other = folder / "1" / "log.jsonl"
    other.write_text("".join(other.read_text().splitlines(keepends=True)[:-1]))
    (run,) = find_runs([tmp_path]).itertuples()
    assert run.state == "unfinished"
    assert list(run.course["epoch"]) == [1, 2, 3]
    assert list(run.course["bytes_sent"]) == [15_000, 30_000, 30_000]
    tests = (run.test, run.worst_test, run.best_test, run.averaged_model_test)
    assert tests == (72, 71, 75, None)
    assert (run.bytes_per_step, run.bytes_total) == (1000, 60_000)
    assert (run.step_seconds, run.training_seconds) == (0.04, 6)

    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "config.yaml").write_text("experiment: other\n")
    assert main([str(tmp_path), "--pictures", str(tmp_path / "pictures")]) == 0


def test_a_run_that_diverged_is_marked(tmp_path: Path) -> None:
    reason = "diverged: rank 1, step 25: the training loss is inf"
    write_run(tmp_path / "1", {"manual_seed": 1}, (40, 10), ending=reason)
    write_run(tmp_path / "2", {"manual_seed": 2}, (60, 70))
    write_run(tmp_path / "3", {"manual_seed": 3, "lr": 9.0}, (30, 10), ending=reason, distance=1e9)
    assert titles_of(tmp_path) == ["lr 0.1 (1 of 2)", "lr 9.0"]
    markdown, table = tmp_path / "t.md", tmp_path / "t.csv"
    assert main([str(tmp_path), "--markdown", str(markdown), "--csv", str(table)]) == 0
    first, second = map(cells, markdown.read_text().splitlines()[2:])
    assert (first[6], first[-1]) == ("70.00", "1 diverged, 1 finished")
    assert (second[6], second[7], second[-1]) == ("-", "-", "diverged")
    assert [row["exit_reason"] for row in rows_of(table)] == [reason, "finished", reason]
    assert [row["test_top1"] for row in rows_of(table)] == ["", "70", ""]

    figure = course_figure(runs_of(tmp_path), EPOCHS, CONSENSUS)
    assert figure is not None
    lines = figure.axes[0].get_lines()
    assert [line.get_marker() for line in lines] == ["o", "s", "x"]
    assert points_of(lines[2]).tolist() == [[2, 5e8]]
    # It leaves the panel at the top, where the others stay readable.
    assert figure.axes[0].get_ylim()[1] == pytest.approx(5)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("", "RUN"),
        ("nowhere", "nowhere"),
        ("empty", "empty"),
        ("run --csv nowhere/t.csv", "nowhere/t.csv"),
        ("run --markdown empty", "empty"),
        ("run --pictures run/config.yaml", "run/config.yaml"),
        ("run --pictures pictures --format bmp", "bmp"),
        ("run --format pdf", "--pictures"),
        ("run --no_such_flag 1", "--no_such_flag"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: str,
    named: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "run", {}, (60,))
    assert main(flags.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("results: error: ")
    assert printed.err.count("\n") == 1
    assert named in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "run"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("summary.json", ""),
        ("summary.json", "[1]"),
        ("summary.json", '{"test_top1": "high", "exit_reason": "finished"}'),
        ("summary.json", '{"test_top1": 60}'),
        ("config.yaml", "lr: [0.1\nx"),
        ("config.yaml", "60"),
        ("config.yaml", "optimizer: no_such_optimizer"),
        ("config.yaml", "n_mpi_process: many"),
        ("0/log.jsonl", '{"kind": "eval\n{"kind": "train", "step": 5}\n'),
        ("0/log.jsonl", '{"kind": "evaluation", "step": 5, "test_top1": true}\n'),
        ("1/log.jsonl", "7\n"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, content: str
) -> None:
    folder = write_run(tmp_path / "run", {}, (60,))
    (folder / file).write_text(content)
    assert main([str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"results: error: {folder / file}")
    assert printed.err.count("\n") == 1


def test_files_that_an_editor_saved_with_a_byte_order_mark(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {}, (60,))
    for file in (folder / "summary.json", folder / "config.yaml", folder / "0" / "log.jsonl"):
        file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert main([str(tmp_path)]) == 0


def test_an_evaluation_has_the_mean_bytes_of_the_nodes(tmp_path: Path) -> None:
    write_run(tmp_path / "run", {}, (60,))
    ((step, point),) = find_runs([tmp_path])["course"][0].iterrows()
    assert step == 10
    assert point.dropna().to_dict() == {
        "epoch": 1.0,
        "test": 60,
        "worst_test": 59,
        "consensus_distance": 0.5,
        "bytes_sent": 15_000,
        "seconds": 2.0,
    }
