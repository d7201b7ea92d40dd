"""Whole runs as users start them: what they print, leave, and end with."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from pcode.utils.errors import DIVERGED
from tests.run.runs import finished, run, run_folder, summary
from tests.support.programs import mpirun_of_a_user, quick_python

SMALL = ("--arch", "resnet8", "--num_epochs", "1")


def test_the_published_command(tmp_path: Path) -> None:
    (tmp_path / "hostfile").write_text("localhost slots=4\n")
    flags = (
        "--arch resnet20 --optimizer parallel_choco --avg_model True --experiment demo "
        "--data digits --pin_memory True --batch_size 128 --base_batch_size 64 --num_workers 2 "
        "--eval_freq 1 --num_epochs 3 --partition_data random --reshuffle_per_epoch True "
        "--stop_criteria epoch --n_mpi_process 4 --n_sub_process 1 --world 0,0,0,0,0,0,0,0 "
        "--on_cuda False --use_ipc False --comm_device cuda --lr 0.1 --lr_scaleup True "
        "--lr_scaleup_factor graph --lr_warmup True --lr_warmup_epochs 5 "
        "--lr_schedule_scheme custom_multistep --lr_change_epochs 150,225 --lr_decay 10 "
        "--weight_decay 1e-4 --use_nesterov True --momentum_factor 0.9 --comm_op sign "
        "--choco_consenus_stepsize 0.5 --compress_ratio 0.9 --quantize_level 16 --is_biased True "
        "--hostfile hostfile --graph_topology ring --track_time True --display_tracked_time True "
        "--evaluate_avg True"
    ).split()
    result = finished(tmp_path, *flags)
    assert result["num_steps"] == 3 * (1437 // (4 * 128))
    # avg_model: every node ends with the same model.
    assert len(set(result["parameters_sha256"])) == 1
    assert result["learning_rate"] == pytest.approx(0.1 + 0.5 * (5 / 6 * 3) / 5)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one small run under mpirun, with all of it started as a user starts it."""
    folder = tmp_path_factory.mktemp("small")
    flags = ("--n_mpi_process", "3", "--summary_freq", "5", "--display_tracked_time", "True")
    done = run(folder, *SMALL, *flags, python=sys.executable)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


def test_a_run_leaves_its_files(small: Path) -> None:
    folder = run_folder(small)
    assert folder.relative_to(small).parts[:4] == ("runs", "digits", "resnet8", "demo")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    ranks = {f"{rank}/{name}" for rank in range(3) for name in ("log.jsonl", "model.pt")}
    assert {"config.yaml", "summary.json", *ranks} <= names
    assert any(name.startswith("tensorboard/events.out.tfevents") for name in names)


def test_the_summary_is_whole(small: Path) -> None:
    result = summary(small)
    assert result["num_parameters"] == 77_754
    assert result["num_steps"] == 1437 // (3 * 32)
    assert result["num_epochs"] == 1
    assert result["test_top1"] == pytest.approx(sum(result["test_top1_per_node"]) / 3)
    assert result["best_test_top1"] >= result["test_top1"]
    assert result["bytes_sent_per_step"] == 2 * result["message_bytes"]
    assert result["bytes_sent_total"] == 3 * result["num_steps"] * 2 * result["message_bytes"]
    parts = dict(result["step_seconds"])
    total = parts.pop("total")
    assert set(parts) == {
        *("data", "forward", "backward", "local_update", "compress", "wait", "mix")
    }
    assert 0.5 * total < sum(parts.values()) <= total
    assert result["exit_reason"] == "finished"
    assert (result["learning_rate"], result["consensus_stepsize"]) == (0.1, 0.45)
    assert result["spectral_gap"] == pytest.approx(1.0)


def test_the_models_are_the_summary_s(small: Path) -> None:
    """Another way to the consensus distance and to the digest: from the models on disk."""
    import hashlib  # noqa: PLC0415

    result, vectors = summary(small), []
    for rank in range(3):
        state = torch.load(run_folder(small) / str(rank) / "model.pt", weights_only=True)
        tensors = [v for k, v in state.items() if "running" not in k and "num_batches" not in k]
        vectors.append(torch.cat([tensor.reshape(-1) for tensor in tensors]).double())
        digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors))
        assert digest.hexdigest() == result["parameters_sha256"][rank]
    stacked = torch.stack(vectors)
    squares = (stacked - stacked.mean(dim=0)).square().sum(dim=1)
    assert result["consensus_distance"] == pytest.approx(math.sqrt(squares.mean()), rel=1e-5)


def test_the_log_has_a_line_for_each_record(small: Path) -> None:
    for rank in range(3):
        lines = (run_folder(small) / str(rank) / "log.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [(r["kind"], r["step"]) for r in records] == [
            *(("train", 5), ("train", 10), ("evaluation", 14))
        ]
        assert all(math.isfinite(r["loss"]) for r in records[:2])
        assert records[-1]["node_test_top1"] == summary(small)["test_top1_per_node"][rank]


def test_what_rank_0_prints(small: Path) -> None:
    printed = (small / "stdout").read_text()
    assert "3 nodes, ring, spectral gap 1" in printed
    assert "gamma 0.45, learning rate 0.1" in printed
    assert printed.count("ms: data ") == 1  # --display_tracked_time, at the evaluation
    assert printed.count("epoch   1: train loss") == 1
    assert f"results: {run_folder(small).relative_to(small)}" in printed


def test_its_configuration_starts_the_same_run(small: Path, tmp_path: Path) -> None:
    file = run_folder(small) / "config.yaml"
    assert yaml.safe_load(file.read_text())["consensus_stepsize"] == 0.45
    again = finished(tmp_path, "--config", str(file), "--backend", "sim")
    assert again["parameters_sha256"] == summary(small)["parameters_sha256"]


def test_under_mpirun_it_is_a_rank(tmp_path: Path) -> None:
    before = mpirun_of_a_user(3, tmp_path)
    done = run(tmp_path, *SMALL, "--quantize_level", "4", before=before)
    assert done.returncode == 0, done.stderr
    assert len(summary(tmp_path)["test_top1_per_node"]) == 3
    assert done.stderr.count("run.py: warning: --quantize_level") == 1


def test_under_torchrun_it_is_a_rank(tmp_path: Path, small: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    before = [quick_python(), *torchrun, "--no-python"]
    done = run(tmp_path, *SMALL, before=before, TMPDIR=str(tmp_path))  # torchrun leaves a folder
    assert done.returncode == 0, done.stderr
    # gloo there, and the same numbers as over MPI
    assert summary(tmp_path)["parameters_sha256"] == summary(small)["parameters_sha256"]


def test_one_node_runs_in_this_process(tmp_path: Path) -> None:
    result = finished(tmp_path, *SMALL, "--n_mpi_process", "1", PATH="")
    assert result["bytes_sent_total"] == 0
    assert result["consensus_distance"] == 0


def test_sorted_shares_differ_and_many_nodes_train(tmp_path: Path) -> None:
    flags = ("--backend", "sim", "--n_mpi_process", "64", "--arch", "mlp", "--num_epochs", "6")
    result = finished(tmp_path, *flags, "--graph_topology", "torus", "--batch_size", "8")
    assert len(result["test_top1_per_node"]) == 64
    assert result["test_top1"] > 60
    (tmp_path / "runs").rename(tmp_path / "random")
    result_sorted = finished(
        tmp_path, *flags, "--graph_topology", "torus", "--batch_size", "8",
        "--partition_data", "sorted",
    )  # fmt: skip
    # Every node sees one or two digits only.
    assert result_sorted["test_top1"] < result["test_top1"]


def test_iterations_are_shared_by_the_nodes(tmp_path: Path) -> None:
    flags = ("--stop_criteria", "iteration", "--num_iterations", "31", "--n_mpi_process", "4")
    result = finished(tmp_path, *SMALL, *flags, "--backend", "sim")
    assert result["num_steps"] == 8


def test_dry_run_tells_all_and_starts_nothing(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        *(
            "--dry_run",
            "--n_mpi_process",
            "16",
            "--graph_topology",
            "torus",
            "--lr_scaleup",
            "True",
        ),
        *("--lr_warmup", "True", "--lr_schedule_scheme", "custom_multistep"),
        *("--lr_change_epochs", "150,225", "--num_epochs", "300", "--mpi_env", "A=1"),
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    for words in (
        *("mpirun", "-n 16", "-x A=1", "n_mpi_process: 16", "32 edges", "spectral gap rho: 0.4"),
        *("beta = ||I - W||: 1.6", "gamma: 0.45", "message: 34,284 bytes", "0: 0.1", "5: 0.5"),
        *("150: 0.05", "225: 0.005"),
    ):
        assert words in printed, words
    assert list(tmp_path.iterdir()) == []
    # What stands there can be pasted: it is the run's own command.
    assert "--dry_run" not in printed


def test_a_diverging_run_ends_with_an_error_that_names_rank_and_step(tmp_path: Path) -> None:
    for backend in ("sim", "mpi"):
        optimizer = ("--optimizer", "sgd", "--graph_topology", "ring")  # what is not compressed
        done = run(tmp_path, *SMALL, *optimizer, "--lr", "1e30", "--backend", backend)
        assert done.returncode == DIVERGED
        assert "the training loss is" in done.stderr
        assert "rank " in done.stderr
        assert "step " in done.stderr
        shutil.rmtree(tmp_path / "runs")
