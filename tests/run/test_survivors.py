"""Nodes die and the others go on; a node whose numbers are not finite is restored."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.resume import children
from tests.run.runs import finished, run_folder

SMALL = (
    *("--arch", "mlp", "--mlp_hidden_size", "64", "--batch_size", "16", "--lr", ".05"),
    *("--num_epochs", "15", "--on_failure", "continue", "--time_limit_seconds", "60"),
)


@pytest.fixture(scope="module")
def run_of_six(tmp_path_factory: pytest.TempPathFactory) -> float:
    """The test accuracy of a run of 6 nodes that nothing happens to, in %."""
    folder = tmp_path_factory.mktemp("six")
    top1: float = children.finished(folder, (*SMALL, "--n_mpi_process", "6"))["test_top1"]
    return top1


@pytest.mark.parametrize(
    ("graph", "faults", "lost"),
    [
        # On a ring of 8 an epoch has 11 steps, of 7 it has 12.
        ("ring", "kill:2:30:exchange,kill:5:90:backward", ["2", "5"]),
        # The first node keeps the summary.
        ("torus", "kill:0:40:backward,kill:7:100:evaluate,kill:7:110:data", ["0", "7"]),
    ],
)
def test_of_eight_nodes_six_go_on(
    tmp_path: Path, run_of_six: float, graph: str, faults: str, lost: list[str]
) -> None:
    flags = (*SMALL, "--n_mpi_process", "8", "--graph_topology", graph)
    result = finished(tmp_path, *flags, PCODE_INJECT=faults)
    assert [event["lost"] for event in result["events"]] == [[name] for name in lost]
    assert len(result["test_top1_per_node"]) == 6
    assert result["exit_reason"] == "finished"
    assert result["num_epochs"] == 15
    assert result["test_top1"] == pytest.approx(run_of_six, abs=1)
    left = {str(rank) for rank in range(8)} - set(lost)
    folder = run_folder(tmp_path)
    assert {file.parent.name for file in folder.glob("*/model.pt")} == left


@pytest.mark.slow
def test_a_chain_that_loses_its_middle_is_one_again(tmp_path: Path) -> None:
    """RelaySGD, which needs a tree, in processes; of all optimizers: training/test_recovery.py."""
    flags = ("--optimizer", "relay", "--graph_topology", "chain", "--num_epochs", "4")
    result = finished(
        tmp_path, *SMALL, "--n_mpi_process", "5", *flags, PCODE_INJECT="kill:2:30:exchange"
    )
    assert [event["lost"] for event in result["events"]] == [["2"]]
    assert len(result["test_top1_per_node"]) == 4
    assert result["exit_reason"] == "finished"
    assert result["test_top1"] > 80


OPTIMIZERS = {
    "choco": (),
    "D-PSGD": ("--optimizer", "sgd"),
    "all-reduce": ("--optimizer", "sgd", "--graph_topology", "complete"),
    "dcd": ("--optimizer", "dcd_psgd"),
    "ecd": ("--optimizer", "ecd_psgd", "--comm_op", "quantize_qsgd", "--quantize_level", "16"),
    "deep squeeze": ("--optimizer", "deep_squeeze"),
    "PowerGossip": ("--optimizer", "power_gossip"),
    "quasi-global": ("--optimizer", "decentralized_qg_sgd"),
    "D2": ("--optimizer", "d2"),
    "gradient tracking": ("--optimizer", "gradient_tracking"),
    "DecentLaM": ("--optimizer", "decentlam"),
    "SGP": ("--optimizer", "sgp"),
    "SGP, one way": ("--optimizer", "sgp", "--graph_topology", "directed_exponential"),
    "RelaySGD": ("--optimizer", "relay", "--graph_topology", "chain"),
    "BEER": ("--optimizer", "beer"),
    "MoTEF": ("--optimizer", "motef"),
    "LEAD": ("--optimizer", "lead"),
    "ef-sign": ("--optimizer", "ef_sign_sgd", "--graph_topology", "complete"),
}
# They send whole vectors, which nobody looks at, as a GPU does not at what it compresses.
BLIND = ("D-PSGD", "all-reduce")
FEW = (*SMALL, "--num_epochs", "2", "--n_mpi_process", "4")


@pytest.mark.parametrize(
    ("optimizer", "what"),
    [
        *(pytest.param(flags, "forward", id=name) for name, flags in OPTIMIZERS.items()),
        # With a gradient that is infinite, and a loss that is not.
        *(pytest.param(OPTIMIZERS[name], "backward", id=f"{name}, gradient") for name in BLIND),
    ],
)
def test_a_sick_node_takes_its_neighbours_model(
    tmp_path: Path, optimizer: tuple[str, ...], what: str
) -> None:
    ended = children.run(tmp_path, (*FEW, *optimizer), f"corrupt:1:9:{what}")
    assert ended.status == 0, ended.output
    result = children.summary(tmp_path)
    (event,) = result["events"]
    step = event.pop("step")
    # Where not all hear from node 1 itself they may have made a step more.
    far = {"chain", "directed_exponential"} & {*optimizer}
    assert step in ((9, 10) if far else (9,))
    assert event == {"lost": [], "healed": ["1"]}
    assert f"step {step}: 1 took the model of the others" in ended.output
    if "complete" in optimizer:
        assert len(set(result["parameters_sha256"])) == 1


@pytest.mark.parametrize(
    "flags",
    [("--local_step", "3"), ("--optimizer", "sgd", "--graph_topology", "random_matching")],
    ids=["local steps", "matchings"],
)
def test_nodes_count_their_exchanges_alike_afterwards(
    tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """The others have come further than the node that diverged, before they hear of it."""
    ended = children.run(tmp_path, (*FEW, *flags), "corrupt:1:9:forward")
    assert ended.status == 0, ended.output
    (event,) = children.summary(tmp_path)["events"]
    assert event["healed"] == ["1"]


@pytest.mark.parametrize("optimizer", [(), ("--optimizer", "sgd")], ids=["choco", "D-PSGD"])
def test_a_spoilt_message_makes_its_receivers_sick(
    tmp_path: Path, optimizer: tuple[str, ...]
) -> None:
    """Copies are NaN, and a step later models are: whoever notices is restored."""
    flags = (*FEW, "--n_mpi_process", "6", *optimizer)
    ended = children.run(tmp_path, flags, "corrupt:1:9:exchange")
    assert ended.status == 0, ended.output
    restored = {name for event in children.summary(tmp_path)["events"] for name in event["healed"]}
    assert restored
    assert restored <= {"0", "1", "2"}
    for rank in range(6):
        values = torch.load(children.run_folder(tmp_path) / str(rank) / "model.pt").values()
        assert all(bool(value.isfinite().all()) for value in values)


@pytest.mark.parametrize(
    ("last", "status", "reason"),
    [
        (10, 3, "diverged: nodes were restored 4 times within an epoch, in vain"),
        (24, 0, "finished"),
    ],
)
def test_more_healings_than_nodes_within_an_epoch_end_the_run(
    tmp_path: Path, last: int, status: int, reason: str
) -> None:
    """An epoch has 22 steps: at step 24 the first of the five does not count any more."""
    faults = [f"corrupt:1:{step}:forward" for step in (2, 4, 6, 8, last)]
    ended = children.run(tmp_path, FEW, ",".join(faults))
    assert ended.status == status, ended.output
    assert children.summary(tmp_path)["exit_reason"].startswith(reason)


def test_where_healing_does_not_help_the_run_ends(tmp_path: Path) -> None:
    """With such a rate every model is no number, again and again."""
    ended = children.run(tmp_path, (*FEW, "--lr", "1e30"))
    assert ended.status == 3, ended.output
    result = children.summary(tmp_path)
    assert result["exit_reason"].startswith("diverged: ")
    assert sum(len(event["healed"]) for event in result["events"]) <= 4


def test_without_on_failure_a_sick_node_ends_all(tmp_path: Path) -> None:
    ended = children.run(tmp_path, (*FEW, "--on_failure", "stop"), "corrupt:1:9:forward")
    assert ended.status == 3
    lines = [line for line in ended.output.splitlines() if line.startswith("run.py: error: ")]
    assert lines == ["run.py: error: rank 1, step 9: the training loss is nan"]
