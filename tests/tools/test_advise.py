"""python -m pcode.tools.advise."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pcode.communication import ProcessCommunicator, Simulation
from pcode.config import Config, make_config, parse
from pcode.tools.advise import Row, advice, choose, main
from pcode.tools.advise_measure import Bench, EchoCommunicator
from pcode.tools.advise_methods import METHODS, plan_alone, plans_of
from pcode.tools.advise_network import Cost, given, sent_bytes
from pcode.topology import make_topology
from pcode.training.node import Node
from pcode.training.plan import Plan
from tests.support.programs import ROOT, quick_python, run_command

TITLES = [method.title for method in METHODS]
SMALL = ["--arch", "mlp", "--n_mpi_process", "4", "--num_threads", "1"]
BY_HAND = [*SMALL, "--rate_mbit", "100", "--latency_ms", "1", "--gradient_ms", "20"]


def config_of(**flags: Any) -> Config:
    return make_config(
        arch="mlp", batch_size=8, n_mpi_process=4, num_threads=1, on_cuda=False, **flags
    )


def lines_of(output: str) -> dict[str, list[str]]:
    """The words of each method's line after its title."""
    found = {}
    for title in sorted(TITLES, key=len, reverse=True):
        for line in output.splitlines():
            if line.startswith(f"{title}  "):
                found[title] = line.removeprefix(title).split()
    return found


def test_a_network_given_by_hand(tmp_path: Path) -> None:
    output, picture = tmp_path / "figures.json", tmp_path / "steps.png"
    files = ["--output", str(output), "--picture", str(picture)]
    command = [quick_python(), "-m", "pcode.tools.advise", *BY_HAND, *files]
    ended = run_command(command, ROOT, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert ended.stdout.startswith("mlp on digits, batch 32, 4 nodes, ring: ")
    assert "forward and backward 20 ms" in ended.stdout
    rows = lines_of(ended.stdout)
    assert sorted(rows) == sorted(TITLES)
    assert picture.read_bytes().startswith(b"\x89PNG")
    content = json.loads(output.read_text())
    assert content["link_mbit"] == pytest.approx(100)
    assert content["speed"]["gradient_seconds"] == 0.02
    assert [each["title"] for each in content["methods"]] == TITLES
    for each in content["methods"]:
        parts = each["gradient_seconds"] + each["pass_seconds"] + each["waiting_seconds"]
        assert each["step_seconds"] == pytest.approx(parts)
        assert each["gradient_seconds"] == 0.02
    assert f"Take {content['advice']}: run.py --optimizer " in ended.stdout


def test_lines_are_sorted_by_the_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"  # whose own method is one of many
    file.write_text("optimizer: dcd_psgd\nlocal_step: 3\nbatch_size: 16\n")
    assert main([*BY_HAND, "--rate_mbit", "0.1", "--config", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("mlp on digits, batch 16, ")
    assert lines_of(printed)["D-PSGD"][0] == "0.0769"  # 9,610 parameters, to 2 neighbours
    body = printed.split("\n\n")[1].splitlines()[1:]
    rows = lines_of(printed)
    steps = [
        float(rows[title][1].replace(",", ""))
        for line in body
        for title in TITLES
        if line.startswith(f"{title}  ")
    ]
    assert len(steps) == len(TITLES)
    assert steps == sorted(steps)


def test_the_gradient_is_measured_if_it_is_not_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    output = tmp_path / "figures.json"
    assert main([*SMALL, "--rate_mbit", "1000", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["speed"]["gradient_seconds"] >= 0
    assert "left out" not in capsys.readouterr().out


def test_graphs_on_which_some_methods_do_not_work(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BY_HAND, "--graph_topology", "one_peer_exponential"]) == 0
    printed = capsys.readouterr().out
    assert sorted(lines_of(printed)) == ["D-PSGD", "all-reduce"]
    assert printed.count("left out: ") == len(TITLES) - 2
    assert "left out: CHOCO, sign: --optimizer parallel_choco: its nodes keep " in printed
    assert main([*BY_HAND, "--graph_topology", "complete"]) == 0
    assert sorted(lines_of(capsys.readouterr().out)) == sorted(set(TITLES) - {"D-PSGD"})


@pytest.mark.parametrize("graph", ["ring", "star"])
def test_bytes_are_those_that_real_optimizers_send(graph: str) -> None:
    config = config_of(graph_topology=graph, power_iterations=2)
    alone = plan_alone(config)
    plans, reasons = plans_of(alone, config)
    assert (list(plans), reasons) == (TITLES, [])
    bench = Bench(alone, gradient_seconds=1.0)
    for title, plan in plans.items():
        cost, num_steps = bench.cost(plan), 2 * plan.config.learning.local_step

        def sent(
            process: ProcessCommunicator, plan: Plan = plan, num_steps: int = num_steps
        ) -> int:
            node = Node(plan, process)
            batches = node.batches_ahead()
            for _ in range(num_steps):
                node.train_step(batches)
            node.finish()
            return process.bytes_sent

        counted = max(Simulation(4).run(sent))
        assert sent_bytes(cost, plan.topology) * num_steps == counted, title


@pytest.mark.parametrize(
    ("flags", "title", "expected"),
    [
        ({}, "D-PSGD", (1, 0, False)),
        ({}, "all-reduce", (1, 0, True)),
        ({}, "CHOCO, sign", (1, 1, False)),
        ({}, "CHOCO, sign, 8 local steps", (1, 1, False)),
        ({"overlap": False}, "CHOCO, qsgd 4", (1, 0, False)),
        ({}, "PowerGossip, rank 1", (1, 1, False)),
        ({"power_iterations": 3}, "PowerGossip, rank 2", (3, 1, False)),
        ({"power_iterations": 3}, "PowerGossip, rank 4, promptly", (3, 0, False)),
    ],
)
def test_what_an_optimizer_waits_for_is_seen(
    flags: dict[str, Any], title: str, expected: tuple[int, int, bool]
) -> None:
    config = config_of(**flags)
    alone = plan_alone(config)
    plans, _ = plans_of(alone, config)
    cost = Bench(alone, gradient_seconds=1.0).cost(plans[title])
    assert (cost.rounds, cost.hidden_rounds, cost.reduces) == expected
    assert cost.local_steps == plans[title].config.learning.local_step
    assert cost.pass_seconds > 0


def test_echoes_leave_every_optimizer_finite() -> None:
    config = config_of()
    plans, _ = plans_of(plan_alone(config), config)
    for plan in plans.values():
        node = Node(plan, EchoCommunicator(1, 4))
        batches = node.batches_ahead()
        for _ in range(16):
            node.train_step(batches)
        node.finish()  # raises where the parameters are not
        vectors = node.optimizer.state_dict()["vectors"].values()
        assert all(bool(vector.isfinite().all()) for vector in vectors)


def row(index: int, step_seconds: float) -> Row:
    """A method whose step takes so long, without any waiting."""
    cost, network = Cost(1, step_seconds), given("abcd", math.inf, 0.0)
    return Row(METHODS[index], cost, 0.0, make_topology("ring", 4, 6), network)


def test_the_choice_is_by_steps_and_their_time() -> None:
    all_reduce, d_psgd, qsgd_8, sign = (row(index, 1.0) for index in range(4))
    assert choose([all_reduce, d_psgd, qsgd_8, sign]) is all_reduce
    slower = row(0, 1.06)
    assert choose([slower, d_psgd, qsgd_8, sign]) is d_psgd
    assert "are 24 s, the least" in next(advice([slower, d_psgd]))
    # 36 steps instead of 24.
    assert choose([row(0, 1.0), row(2, 0.7)]).method.title == "all-reduce"
    assert choose([row(0, 1.0), row(2, 0.6)]).method.title == "CHOCO, qsgd 8"
    # Nobody knows how many steps PowerGossip needs.
    assert choose([row(0, 1.0), row(7, 0.01)]).method.title == "all-reduce"
    words = "\n".join(advice([row(0, 1.0), row(7, 0.01)]))
    assert "PowerGossip, rank 1 has a step 100 times as short" in words


def test_the_advice_is_flags_of_a_run() -> None:
    for method in METHODS:
        parsed = parse([*SMALL, *method.command.split()])
        assert parsed.warnings == ()
        assert {name: parsed.config.flat()[name] for name in method.flags} == method.flags


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--arch nothing", "nothing"),
        ("--topolgy ring", "--topolgy: no such flag"),
        ("--n_mpi_process 1", "--n_mpi_process 1: a node alone"),
        ("--n_sub_process 2", "--n_sub_process 2: "),
        ("--rate_mbit 0", "--rate_mbit 0.0: must be above 0"),
        ("--rate_mbit fast", "--rate_mbit 'fast'"),
        ("--rate_mbit 10 --latency_ms -1", "--latency_ms -1.0: must be at least 0"),
        ("--rate_mbit 10 --loss_percent 100", "--loss_percent 100.0: must be below 100"),
        ("--rate_mbit 10 --gradient_ms 0", "--gradient_ms 0.0: must be above 0"),
        ("--gradient_ms 5", "--gradient_ms: needs --rate_mbit"),
        ("--latency_ms 5", "--latency_ms: needs --rate_mbit"),
        ("--backend sim", "--backend sim: it has no network"),
        ("--hostfile {folder}/none", "--hostfile"),
        ("--optimizer dcd_psgd --rate_mbit 10", "--optimizer: each method has its own"),
        ("--consensus_stepsize 0.1", "--consensus_stepsize: each method has its own"),
        ("--choco_consenus_stepsize 0.1", "--choco_consenus_stepsize: each method has its own"),
        ("--check", "--check: are run.py's"),
        ("--dry_run --rate_mbit 10", "--dry_run, --check: are run.py's"),
        ("--picture {folder}/a.txt", "suffix must be one of .png"),
        ("--picture {folder}/none/a.png", "cannot be written"),
        ("--output {folder}", "cannot be written"),
    ],
)
def test_a_mistake_is_one_line(
    flags: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--output", str(tmp_path / "out.json"), "--picture", str(tmp_path / "a.png")]
    assert main([*SMALL, *files, *flags.format(folder=tmp_path).split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("advise: error: ")
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert list(tmp_path.iterdir()) == []


def test_it_starts_its_ranks_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", "0"), ("SIZE", "4"), ("LOCAL_RANK", "0"), ("LOCAL_SIZE", "4")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    assert main(SMALL) == 2
    assert "it starts its ranks itself" in capsys.readouterr().err
