"""Runs with each optimizer, graph and option, as a user starts them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.run.runs import finished, run, summary

SMALL = ("--arch", "mlp", "--n_mpi_process", "4", "--num_epochs", "6", "--backend", "sim")
COMPLETE = ("--graph_topology", "complete")


@pytest.mark.parametrize(
    "flags",
    [
        ("--optimizer", "dcd"),
        ("--optimizer", "ecd", "--comm_op", "quantize_qsgd", "--quantize_level", "16"),
        ("--optimizer", "deep_squeeze", "--comm_op", "compress_top_k", "--compress_ratio", "0.5"),
        ("--optimizer", "ef_sign_sgd", *COMPLETE),
        ("--optimizer", "ef_sign_sgd", "--majority_vote", "True", *COMPLETE),
        (
            *("--optimizer", "dgc", "--comm_op", "compress_top_k", "--compress_ratio", ".99"),
            *("--compress_warmup_epochs", "3", "--mask_momentum", "True", "--clip_grad", "True"),
            *("--clip_grad_val", "5", *COMPLETE),
        ),
        ("--local_step", "2", "--turn_on_local_step_from", "1"),
        ("--local_optimizer", "adam", "--lr", ".003"),
        ("--optimizer", "sgd", "--graph_topology", "random_matching"),
        ("--optimizer", "sgd", "--graph_topology", "one_peer_exponential"),
        ("--comm_op", "compress_random_k", "--compress_ratio", ".5", "--graph_topology", "star"),
        ("--graph_topology", "random_regular:3"),
    ],
    ids=" ".join,
)
def test_a_run_learns(tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert finished(tmp_path, *SMALL, *flags)["test_top1"] > 85


def test_local_steps_send_less(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("every", "third")]
    for folder in folders:
        folder.mkdir()
    every = finished(folders[0], *SMALL, "--num_epochs", "2")
    third = finished(folders[1], *SMALL, "--num_epochs", "2", "--local_step", "3")
    assert every["num_steps"] == third["num_steps"] == 22
    assert third["bytes_sent_total"] * 22 == every["bytes_sent_total"] * 7


def test_the_first_lines_say_what_is_kept(tmp_path: Path) -> None:
    flags = ("--comm_op", "compress_top_k", "--compress_ratio", "0.99", "--num_epochs", "1")
    lines = run(tmp_path, *SMALL, *flags).stdout.splitlines()
    assert "selects the largest 1 % of the entries of each tensor (drops 99 %)" in lines[2]


def test_a_searched_gamma_is_printed_once_and_used(tmp_path: Path) -> None:
    """The launcher searches and tells the ranks."""
    flags = ("--arch", "mlp", "--n_mpi_process", "3", "--num_epochs", "1")
    done = run(tmp_path, *flags, "--consensus_stepsize", "auto")
    assert done.returncode == 0, done.stderr
    (found,) = re.findall(r"^gamma (\S+): \d+ rounds of gossip on 9,610 entries", done.stdout, re.M)
    assert summary(tmp_path)["consensus_stepsize"] == pytest.approx(float(found), rel=1e-3)


def test_a_doubtful_pairing_is_warned_about(tmp_path: Path) -> None:
    done = run(tmp_path, "--optimizer", "ecd", "--dry_run")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("run.py: warning: --optimizer ecd_psgd: ")
    assert "1907.09356, table 1" in line


@pytest.mark.parametrize("backend", ["sim", "mpi"])
def test_divergence_names_rank_step_and_tensor(tmp_path: Path, backend: str) -> None:
    flags = ("--arch", "mlp", "--n_mpi_process", "3", "--lr", "1e39", "--backend", backend)
    done = run(tmp_path, *flags)  # the first step's length is no float32
    assert done.returncode == 3
    assert re.search(r"rank \d, step \d+: tensor \S+ holds NaN or infinity", done.stderr)
    assert "Traceback" not in done.stderr
