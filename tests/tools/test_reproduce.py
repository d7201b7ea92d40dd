"""Tables of the paper, rehearsed for an epoch or two in a few of their cells."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from pcode.datasets import Batches
from pcode.tools import reproduce_plan
from pcode.tools.reproduce import main
from pcode.tools.reproduce_report import draw, markdown, summarise
from pcode.tools.reproduce_tables import ROOT, TABLES, Cell, Setting, is_rehearsal
from pcode.training.node import Node
from pcode.training.planning import make_plan


def cell(table: str, name: str) -> Cell:
    """The cell of that name."""
    (found,) = [cell for cell in TABLES[table].cells if cell.name == name]
    return found


def setting(table: str, data: str | None, epochs: int | None = None) -> Setting:
    return Setting(TABLES[table], data, epochs, range(1, 4), Path("nowhere"))


def finished(folder: Path) -> list[Path]:
    """The runs that a folder holds."""
    return sorted(folder.glob("*/*/*/*/summary.json"))


@pytest.mark.parametrize(
    ("table", "name", "paper"),
    [
        ("table1", "all-reduce", 92.64),
        ("table1", "choco-sign", 92.46),
        ("table1", "choco-random-1", 91.32),
        ("table1", "dcd-qsgd-4", 23.56),
        ("table1", "dcd-top-1", 89.79),
        ("table1", "dcd-random-10", "div"),
        ("table1", "ecd-qsgd-8", 59.11),
        ("table1", "ecd-top-50", 17.03),
        ("social", "resnet20-centralized", 93.00),
        ("social", "resnet20-choco-sign", 91.90),
        ("social", "lstm-dpsgd", 96.33),
        ("social", "lstm-choco-sign", 89.09),
        ("scaling", "choco-torus-64", None),
        ("datacenter", "all-reduce", 76.37),
        ("datacenter", "choco-sign", 75.15),
        ("heterogeneity", "relay-trees-m-.01", 89.1),
        ("heterogeneity", "d2-m-.01-lost-10", "div"),
        ("heterogeneity", "evonorm-dpsgd-.1", 74.55),
        ("heterogeneity", "motef-sign-.01", None),
        ("topology", "dpsgd-base-1", 87.1),
    ],
)
def test_the_figures_are_the_paper_s(table: str, name: str, paper: object) -> None:
    assert cell(table, name).paper == paper


def test_every_cell_has_a_place_and_a_file_and_every_file_a_cell() -> None:
    assert {name: len(table.cells) for name, table in TABLES.items()} == {
        **{"table1": 1 + 3 * 11, "scaling": 5 * 4, "social": 2 * 3, "datacenter": 2},
        **{"heterogeneity": 3 * (12 + 14 + 2) + 2 * 4, "topology": 10 + 5 + 1},
    }
    for name, table in TABLES.items():
        places = {(cell.row, cell.column) for cell in table.cells}
        assert len(places) == len(table.cells)
        files = {file.stem for file in (ROOT / "configs" / name).glob("*.yaml")}
        assert {file for file in files if not file.startswith("base")} == {
            cell.file or cell.name for cell in table.cells
        }


def test_the_paper_s_setting_is_that_of_the_files() -> None:
    assert setting("table1", None).flags(cell("table1", "choco-sign"), 3) == [
        *("--config", str(ROOT / "configs/table1/choco-sign.yaml"), "--manual_seed", "3")
    ]
    other = setting("table1", "svhn", 60).config(cell("table1", "choco-sign"), 3)
    assert (other.data.data, other.data.batch_size, other.launch.backend) == ("svhn", 128, "mpi")
    # half and three quarters of the run, as in the paper's of 300
    assert (other.learning.num_epochs, other.options["lr_change_epochs"]) == (60, (30.0, 45.0))


@pytest.mark.parametrize("name", ["choco-top-10", "dcd-random-50", "ecd-qsgd-2"])
def test_a_rehearsal_keeps_the_optimizer_the_graph_and_the_compressor(name: str) -> None:
    flags = setting("table1", "digits").config(cell("table1", name), 2).flat()
    files = setting("table1", None).config(cell("table1", name), 2).flat()
    same = (
        *("optimizer", "graph_topology", "comm_op", "compress_ratio", "quantize_level"),
        *("is_biased", "n_mpi_process", "arch", "momentum_factor", "use_nesterov"),
        *("weight_decay", "reshuffle_per_epoch", "partition_data", "lr_schedule_scheme"),
    )
    assert {flag: flags[flag] for flag in same} == {flag: files[flag] for flag in same}
    expected = {
        **{"data": "digits", "backend": "sim", "batch_size": 16, "num_epochs": 40, "lr": 0.1},
        **{"lr_scaleup": False, "lr_warmup": False, "lr_change_epochs": (20.0, 30.0)},
        **{"consensus_stepsize": None, "manual_seed": 2, "train_fast": True, "num_threads": 1},
    }
    assert {flag: flags[flag] for flag in expected} == expected


def test_cells_of_one_file_differ_in_their_flags() -> None:
    config = setting("heterogeneity", None).config(cell("heterogeneity", "d2-m-.01-lost-10"), 1)
    flags = config.flat()
    assert (flags["optimizer"], flags["momentum_factor"], flags["lr"]) == ("d2", 0.9, 0.00126)
    assert (flags["drop_messages"], config.data.dealing) == (0.1, "non_iid_dirichlet:0.01")


def test_what_a_rehearsal_is() -> None:
    assert [is_rehearsal(data) for data in ("digits", "synthetic:1x8x8", "cifar10", None)] == [
        *(True, True, False, False)
    ]


def test_cells_run_once_and_what_diverges_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, table, output = tmp_path / "runs", tmp_path / "t.md", tmp_path / "t.json"
    arguments = ["table1", "--data", "digits", "--epochs", "3", "--seeds", "1", "--jobs", "2"]
    arguments += ["--cells", "dcd-random-1,all-reduce", "--folder", str(runs)]
    arguments += ["--markdown", str(table), "--output", str(output)]
    assert main(arguments) == 0
    assert capsys.readouterr().out == table.read_text()
    found = finished(runs)
    assert len(found) == 2
    measured = {cell["cell"]: cell["test_top1"] for cell in json.loads(output.read_text())["cells"]}
    assert measured["dcd-random-1"] == [None]
    (top1,) = measured["all-reduce"]
    assert top1 > 80
    lines = table.read_text().splitlines()
    assert lines[0] == "| | DCD | paper |"
    assert lines[2] == "| random 1 % | div | div |"
    assert lines[4].startswith(
        f"Without compression, all-reduce: {top1:.2f} (paper 92.64). "
        "Ours: resnet20 on digits, 3 epochs, 1 run; the paper's: ResNet-20 on CIFAR-10."
    )
    assert main(arguments) == 0
    assert finished(runs) == found
    assert {
        cell["cell"]: cell["test_top1"] for cell in json.loads(output.read_text())["cells"]
    } == (measured)

    spoilt = next(file for file in found if file.parts[-3].startswith("all-reduce"))
    for content in ("[", '{"exit_reason": "finished"}'):
        spoilt.write_text(content)
        assert main(arguments) == 1
        printed = capsys.readouterr()
        assert "| random 1 % | div | div |" in printed.out
        last = printed.err.splitlines()[-1]
        assert last.startswith(f"reproduce: error: all-reduce, seed 1: {spoilt}: cannot be read: ")


def test_a_dry_run_says_how_long_it_takes_and_which_cell_diverges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {**TABLES["scaling"].rehearsal, "choco-ring-4": "--lr 1e30"}
    monkeypatch.setitem(TABLES, "scaling", dataclasses.replace(TABLES["scaling"], rehearsal=flags))
    arguments = ["scaling", "--data", "digits", "--epochs", "3", "--seeds", "2", "--jobs", "2"]
    arguments += ["--cells", "choco-ring-4,all-reduce-4", "--folder", str(tmp_path), "--dry_run"]
    assert main(arguments) == 0
    head, _, all_reduce, choco, empty, total, _ = capsys.readouterr().out.splitlines()
    assert head == (
        "| cell | ms a step | s an evaluation | s the last | GB of the GPU | hours a run |"
    )
    assert choco == "| choco-ring-4 | diverged | | | | |"
    assert empty == ""
    plan = make_plan(setting("scaling", "digits", 3).config(cell("scaling", "all-reduce-4"), 1))
    name, step_ms, _, last_seconds, _, hours = all_reduce.strip("| ").split(" | ")
    assert name == "all-reduce-4"
    assert float(step_ms) > 0
    # Evaluated once, at the end: --train_fast True.
    seconds = plan.num_steps * float(step_ms) / 1e3 + float(last_seconds)
    assert float(hours) == pytest.approx(seconds / 3600, rel=0.01)
    # Two seeds of what does not diverge, side by side.
    assert total.startswith("4 runs, 2 at a time, on ")
    assert total.endswith(f": {hours} hours")
    assert finished(tmp_path) == []


def test_what_is_measured_is_from_the_first_node_s_begin_to_the_last_one_s_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    def train_step(node: Node, batches: Batches) -> list[float]:
        work(1)
        return original(node, batches)

    def evaluate(*_: object, averaged: bool, consensus: bool, amp: str | None) -> None:
        work(3 if averaged and consensus else 2)

    original = Node.train_step
    monkeypatch.setattr(Node, "train_step", train_step)
    monkeypatch.setattr(reproduce_plan, "evaluate", evaluate)
    monkeypatch.setattr(reproduce_plan, "time", SimpleNamespace(perf_counter=lambda: now))
    config = setting("table1", "digits", 5).config(cell("table1", "choco-sign"), 1)
    watch = dataclasses.replace(config.watch, train_fast=False, eval_freq=2, evaluate_avg=False)
    cost = reproduce_plan.measured(dataclasses.replace(config, watch=watch), threading.Barrier(1))
    assert cost is not None
    # 8 nodes, one after another.
    assert (cost.step_seconds, cost.evaluation_seconds, cost.last_seconds) == (8, 16, 24)
    assert (cost.num_evaluations, cost.num_epochs) == (2, 5)  # after epochs 2 and 4
    assert cost.hours == pytest.approx((8 * cost.num_steps + 2 * 16 + 24) / 3600)


def test_hours_of_a_table_are_no_less_than_those_of_its_longest_run() -> None:
    one = reproduce_plan.Cost(3.6, 36, 72, 970, 1, 40)
    four = reproduce_plan.Cost(3.6, 36, 72, 3970, 1, 40)
    assert (one.hours, four.hours) == pytest.approx((1, 4))
    for costs, num_seeds, jobs, hours in (
        ([one], 3, 1, 3),
        ([one], 3, 2, 1.5),
        ([one], 3, 4, 1),
        ([one, four], 1, 2, 4),
        ([one, four], 3, 2, 7.5),
        ([], 3, 2, 0),
    ):
        assert reproduce_plan.table_hours(costs, num_seeds, jobs) == pytest.approx(hours)


def test_a_plan_says_how_many_epochs_a_second_a_day_takes() -> None:
    cells = TABLES["table1"].cells[:2]
    cost = reproduce_plan.Cost(3.6, 36, 72, 970, 1, 288, gpu_bytes=2.5e9)
    text = reproduce_plan.report(setting("table1", None), cells, [cost, None], 4)
    _, _, first, second, _, total, epochs = text.splitlines()
    assert first == f"| {cells[0].name} | 3600.000 | 36.000 | 72.000 | 2.500 | 1 |"
    assert second == f"| {cells[1].name} | diverged | | | | |"
    where = "CPUs"
    if torch.cuda.is_available():
        where = f"{torch.cuda.get_device_name()} of {torch.cuda.mem_get_info()[1] / 1e9:.0f} GB"
    assert total == f"6 runs, 4 at a time, on {where}: 1 hours"
    assert epochs == "864 epochs: 0.24 a second; to end within a day it takes 0.01 a second"


def test_only_simulated_nodes_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table1", "--cells", "choco-sign", "--dry_run"]) == 2
    assert "choco-sign has 8 nodes in processes of their own" in capsys.readouterr().err
    simulated = dataclasses.replace(setting("table1", None), simulate=True)
    assert simulated.config(cell("table1", "choco-sign"), 1).launch.backend == "sim"


def test_a_run_that_fails_is_one_line_and_the_others_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling = TABLES["scaling"]
    flags = {**scaling.rehearsal, "*-4": "--num_epochs 1", "choco-*": "--graph_topology social"}
    broken = dataclasses.replace(scaling, rehearsal=flags)
    monkeypatch.setitem(TABLES, "scaling", broken)
    arguments = ["scaling", "--data", "digits", "--seeds", "1", "--folder", str(tmp_path)]
    arguments += ["--cells", "choco-ring-4,all-reduce-4"]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert last.startswith("reproduce: error: choco-ring-4, seed 1: ended with status 2: run.py: ")
    assert "--graph_topology social" in last
    assert len(finished(tmp_path)) == 1
    header, _, row, *_ = printed.out.splitlines()
    assert header == "| | all-reduce | CHOCO, sign, ring |"
    assert row.startswith("| 4 nodes | ")
    assert row.endswith(" | failed |")


@pytest.mark.parametrize("table", TABLES)
def test_a_table_and_its_picture(tmp_path: Path, table: str) -> None:
    cells = TABLES[table].cells
    figures = {cell.name: [90.0, 92.0, math.nan] for cell in cells}
    figures[cells[-1].name] = [math.nan] * 3
    rows = [(name, figure, None) for name, each in figures.items() for figure in each]
    runs = pd.DataFrame(rows, columns=["cell", "figure", "failure"])
    summary = summarise(TABLES[table], runs)
    lines = markdown(setting(table, "digits"), summary).splitlines()
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert sum(line.count("91.00 ± 1.41 (1 of 3 div)") for line in lines) == len(cells) - 1
    assert sum(line.count("| div |") for line in lines) >= 1
    assert lines[-1].endswith(TABLES[table].note)
    draw(setting(table, "digits"), summary, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "flags",
    [
        "",
        "table9",
        "table1 --epochs 0",
        "table1 --seeds 0",
        "table1 --jobs x",
        "table1 --jobs 0",
        "table1 --data nothing",
        "table1 --cells choco-zip",
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
