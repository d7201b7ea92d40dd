"""Whole runs on a GPU: several nodes on it, by every backend, beside the same run on a CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pcode.optim import OPTIMIZERS, optimizer_class
from pcode.topology import make_graph
from tests.gpu import needs_gpu, needs_two_gpus
from tests.run.runs import finished, run, run_folder, write_rcv1

pytestmark = needs_gpu

DIGITS = ("--n_mpi_process", "4", "--arch", "resnet8", "--num_epochs", "5", "--lr", "0.05")
SHORT = ("--n_mpi_process", "2", "--arch", "mlp", "--num_epochs", "1")
ON_GPU, ON_CPU = ("--on_cuda", "True"), ("--on_cuda", "False")
SIM = ("--backend", "sim")
End = Callable[..., dict[str, Any]]
RING = make_graph("ring", 2)  # a tree, too


@pytest.fixture
def end(tmp_path: Path) -> End:
    """The summary of a run with these flags, in a folder of its own."""
    number = itertools.count()

    def end(*flags: str) -> dict[str, Any]:
        folder = tmp_path / str(next(number))
        folder.mkdir()
        return finished(folder, *flags)

    return end


def digests(result: dict[str, Any]) -> list[str]:
    found: list[str] = result["parameters_sha256"]
    return found


def test_digits_as_on_a_cpu(end: End) -> None:
    on_gpu = end(*DIGITS, *SIM, *ON_GPU)
    on_cpu = end(*DIGITS, *SIM, *ON_CPU)
    assert on_gpu["test_top1"] == pytest.approx(on_cpu["test_top1"], abs=2)


def test_overlapped_and_sequential_runs_end_at_the_same_bits(end: End) -> None:
    one, other = (
        end(*DIGITS, *SIM, *ON_GPU, "--overlap", overlap) for overlap in ("True", "False")
    )
    assert digests(one) == digests(other)


@pytest.mark.parametrize("backend", ["mpi", "gloo"])
def test_ranks_that_share_the_gpu_are_staged(end: End, backend: str) -> None:
    simulated = end(*SHORT, *SIM, *ON_GPU)
    staged = end(*SHORT, "--backend", backend, *ON_GPU)
    assert digests(staged) == digests(simulated)
    assert staged["bytes_sent_total"] == simulated["bytes_sent_total"]


def test_nccl_on_one_gpu_falls_back_with_a_notice(tmp_path: Path) -> None:
    done = run(tmp_path, *SHORT, "--backend", "nccl", *ON_GPU)
    assert done.returncode == 0, done.stderr
    assert "ranks 0 and 1 share a GPU, which NCCL cannot" in done.stderr


@needs_two_gpus
@pytest.mark.parametrize("backend", ["nccl", "mpi", "gloo"])
def test_a_gpu_for_each_rank(end: End, backend: str) -> None:
    flags = (*SHORT, *ON_GPU, "--world", "0,1")
    simulated = end(*flags, *SIM)
    assert digests(end(*flags, "--backend", backend)) == digests(simulated)


@needs_two_gpus
def test_a_node_of_two_gpus(end: End) -> None:
    flags = ("--n_mpi_process", "1", "--arch", "mlp", "--num_epochs", "1", *ON_GPU)
    one = end(*flags)
    two = end(*flags, "--n_sub_process", "2", "--world", "0,1", "--backend", "nccl")
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.02)


@needs_two_gpus
def test_a_rank_that_falls_silent_over_nccl(tmp_path: Path) -> None:
    flags = (*SHORT, *ON_GPU, "--world", "0,1", "--backend", "nccl", "--time_limit_seconds", "10")
    done = run(tmp_path, *flags, PCODE_INJECT="stop:1:3:forward")
    assert done.returncode == 1
    assert "rank 0, peer 1, step" in done.stderr


def test_a_sick_node_takes_the_others_model(tmp_path: Path) -> None:
    flags = (*DIGITS[:4], "--num_epochs", "1", *SIM, *ON_GPU, "--on_failure", "continue")
    result = finished(tmp_path, *flags, PCODE_INJECT="corrupt:1:3:forward")
    assert [event["healed"] for event in result["events"]] == [["1"]]


@pytest.mark.parametrize(
    "optimizer", [name for name in OPTIMIZERS if not optimizer_class(name, RING).centralized]
)
def test_every_decentralized_optimizer(end: End, optimizer: str) -> None:
    flags: tuple[str, ...] = (*SHORT, "--optimizer", optimizer, "--comm_op", "quantize_qsgd")
    flags += ("--quantize_level", "16", "--is_biased", "False")
    on_gpu, on_cpu = (end(*flags, *SIM, *place) for place in (ON_GPU, ON_CPU))
    assert on_gpu["train_loss"] == pytest.approx(on_cpu["train_loss"], rel=0.02)


@pytest.mark.parametrize(
    ("optimizer", "comm_op"), [("sgd", "none"), ("ef_sign_sgd", "sign"), ("dgc", "compress_top_k")]
)
def test_every_centralized_optimizer(end: End, optimizer: str, comm_op: str) -> None:
    flags = (*SHORT, "--graph_topology", "complete", "--optimizer", optimizer, "--comm_op", comm_op)
    on_gpu, on_cpu = (end(*flags, *SIM, *place) for place in (ON_GPU, ON_CPU))
    assert on_gpu["train_loss"] == pytest.approx(on_cpu["train_loss"], rel=0.02)
    assert len(set(digests(on_gpu))) == 1


@pytest.mark.parametrize(
    "flags",
    [
        ("--amp", "bf16"),
        ("--amp", "fp16"),
        ("--compile", "True"),
        ("--local_optimizer", "adam", "--lr", "0.001"),
        ("--clip_grad", "True", "--clip_grad_val", "1"),
        ("--arch", "densenet", "--drop_rate", "0.1"),
    ],
    ids=" ".join,
)
def test_a_run_learns_with(end: End, flags: tuple[str, ...]) -> None:
    result = end(*DIGITS[:4], "--num_epochs", "3", *SIM, *ON_GPU, *flags)
    assert result["test_top1"] > 80


def test_images_are_augmented_there(end: End) -> None:
    flags = ("--data", "synthetic:3x16x16:10:640", "--arch", "resnet8", "--num_epochs", "2")
    on_gpu, on_cpu = (end(*flags, *SIM, *place) for place in (ON_GPU, ON_CPU))
    assert on_gpu["train_loss"] == pytest.approx(on_cpu["train_loss"], rel=0.05)


@pytest.mark.parametrize("normalised", ["True", "False"])
def test_words(end: End, normalised: str) -> None:
    flags = (
        *("--data", "synthetic:text:50:5000", "--arch", "rnn_lm", "--num_epochs", "1"),
        *("--rnn_weight_norm", normalised),
    )
    on_gpu, on_cpu = (end(*flags, *SIM, *place) for place in (ON_GPU, ON_CPU))
    assert on_gpu["train_loss"] == pytest.approx(on_cpu["train_loss"], rel=0.02)


def test_sparse_rows(end: End, tmp_path: Path) -> None:
    write_rcv1(tmp_path, num_train=64, num_test=30)
    flags = (
        *("--data", "rcv1", "--data_dir", str(tmp_path), "--arch", "logistic_regression"),
        *("--num_epochs", "2", "--batch_size", "8", "--lr", "1", "--n_mpi_process", "2"),
    )
    on_gpu, on_cpu = (end(*flags, *SIM, *place) for place in (ON_GPU, ON_CPU))
    assert on_gpu["train_loss"] == pytest.approx(on_cpu["train_loss"], rel=0.01)


def test_a_run_on_a_gpu_goes_on_where_it_was(end: End, tmp_path: Path) -> None:
    whole = end(*SHORT[:4], "--num_epochs", "2", *SIM, *ON_GPU)
    flags = (*SHORT[:4], *SIM, *ON_GPU)
    finished(tmp_path, *flags, "--num_epochs", "1")
    goes_on = ("--num_epochs", "2", "--resume", str(run_folder(tmp_path)))
    resumed = finished(tmp_path, *flags, *goes_on)
    assert digests(resumed) == digests(whole)


def test_a_node_of_two_processes(end: End) -> None:
    flags = ("--n_mpi_process", "2", "--arch", "mlp", "--num_epochs", "1")
    one = end(*flags, *SIM, *ON_GPU)
    two = end(*flags, "--n_sub_process", "2", *ON_GPU)
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.02)
