"""A run that was killed and resumed ends with the bits of one that was not."""

from __future__ import annotations

import signal
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from pcode.config import make_config
from pcode.optim import OPTIMIZERS
from pcode.training.checkpoint import last_step
from pcode.training.planning import make_plan
from pcode.utils.errors import UserError
from tests.resume.children import Ended, finished, records, run, run_folder, summary

# Dropout draws in every step; 7 steps an epoch, 21 in all.
SMALL = (
    *("--arch", "mlp", "--mlp_hidden_size", "16", "--drop_rate", ".2", "--lr", ".02"),
    *("--n_mpi_process", "3", "--batch_size", "64", "--num_epochs", "3"),
    *("--reshuffle_per_epoch", "True"),
)
COMPRESSORS = (
    ("--comm_op", "none"),
    ("--comm_op", "sign"),
    ("--comm_op", "compress_top_k", "--compress_ratio", ".5"),
    ("--comm_op", "compress_random_k", "--compress_ratio", ".5"),
    ("--comm_op", "quantize_qsgd", "--quantize_level", "8"),
)
GRAPHS = ("ring", "complete", "random_matching", "chain")
# A checkpoint at every meeting: after a handful of steps within an epoch.
ALWAYS = ("--checkpoint_minutes", "1e-7")


def _pairings() -> list[tuple[str, ...]]:
    """Every optimizer with every compressor, on the first graph it takes; D-PSGD on all of them."""
    found: list[tuple[str, ...]] = []
    for optimizer in OPTIMIZERS:
        for graph in GRAPHS:
            if optimizer != "sgd" and any(optimizer in words for words in found):
                break
            flags: dict[str, Any] = {"optimizer": optimizer, "graph_topology": graph}
            for compressor in COMPRESSORS:
                place: dict[str, Any] = {"backend": "sim", "n_mpi_process": 3, "num_threads": 1}
                task = {"data": "synthetic:1x8x8:10:1400", "arch": "mlp"}  # no file to read
                config = make_config(**flags, **place, **task, comm_op=compressor[1])
                try:
                    plan = make_plan(config)
                except UserError:
                    continue
                words = ("--optimizer", optimizer, "--graph_topology", graph, *compressor)
                found.append(words)
                if not plan.optimizer.compresses:
                    break
    return found


def killed(ended: Ended) -> None:
    assert ended.status == -signal.SIGKILL, ended.output


def _few_by_default() -> list[Any]:
    """Every optimizer, and every compressor that loses something; the other pairings are slow."""
    of_optimizer: dict[str, list[tuple[str, ...]]] = {}
    for pairing in _pairings():
        of_optimizer.setdefault(pairing[1], []).append(pairing)
    found, numbers = [], count()
    for pairings in of_optimizer.values():
        lossy = [pairing for pairing in pairings if pairing[1::2][2] != "none"]
        # Of the optimizers that compress, the first takes the first of them, and so on.
        chosen = [lossy[next(numbers) % len(lossy)]] if lossy else pairings
        for pairing in pairings:
            marks = () if pairing in chosen else pytest.mark.slow
            found.append(pytest.param(pairing, marks=marks, id=" ".join(pairing[1::2])))
    return found


@pytest.mark.parametrize("pairing", _few_by_default())
def test_every_optimizer_with_every_compressor(tmp_path: Path, pairing: tuple[str, ...]) -> None:
    """Killed within an epoch, and again in another one."""
    (tmp_path / "whole").mkdir()
    want = finished(tmp_path / "whole", (*SMALL, *pairing))
    killed(run(tmp_path, (*SMALL, *pairing, *ALWAYS), "kill:1:5:backward"))
    resume = ("--resume", str(run_folder(tmp_path)))
    killed(run(tmp_path, resume, "kill:0:17:forward"))
    got = finished(tmp_path, resume)
    starts = [event["step"] for event in got["events"]]
    assert len(starts) == 2
    assert 0 < starts[0] <= 5 <= starts[1] <= 17
    assert got["parameters_sha256"] == want["parameters_sha256"]
    for figure in ("train_loss", "test_top1_per_node", "best_test_top1", "bytes_sent_total"):
        assert got[figure] == want[figure]


VARIANTS = {
    "adam": ("--local_optimizer", "adam", "--lr", ".001"),
    "local steps": ("--local_step", "3"),
    "warm-up": ("--lr_scaleup", "True", "--lr_warmup", "True", "--lr_warmup_epochs", "2"),
    "augmented": ("--data", "synthetic:3x8x8:4:1400", "--arch", "resnet8"),
    "labels dealt unequally": ("--partition_data", "dirichlet:.5"),
    "iterations": ("--stop_criteria", "iteration", "--num_iterations", "52"),
    "language": (
        *("--data", "synthetic:text:20:9000", "--arch", "rnn_lm", "--rnn_n_hidden", "8"),
        *("--batch_size", "8", "--rnn_bptt_len", "30", "--drop_rate", ".2"),
    ),
    "two processes a node": (
        *("--n_sub_process", "2", "--data", "synthetic:3x8x8:4:1400", "--arch", "resnet8"),
    ),
    "language, two processes a node": (
        *("--data", "synthetic:text:20:9000", "--arch", "rnn_lm", "--rnn_n_hidden", "8"),
        *("--batch_size", "8", "--rnn_bptt_len", "30", "--n_sub_process", "2"),
    ),
}


def whole_and_resumed(
    folder: Path, flags: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run leaves that nobody disturbed, and one that was killed and went on."""
    (folder / "whole").mkdir()
    want = finished(folder / "whole", flags)
    killed(run(folder, (*flags, *ALWAYS), "kill:2:11:exchange"))
    got = finished(folder, ("--resume", str(run_folder(folder))))
    assert got["parameters_sha256"] == want["parameters_sha256"]
    return want, got


def test_a_rate_that_follows_the_loss(tmp_path: Path) -> None:
    """Each step sees all images and moves next to nothing: the rate drops after 12 epochs."""
    flags = (
        *(*SMALL, "--lr_schedule_scheme", "reduce_on_plateau", "--lr", "1e-6", "--drop_rate", "0"),
        *("--momentum_factor", "0", "--batch_size", "479", "--num_epochs", "13"),
    )
    want, got = whole_and_resumed(tmp_path, flags)
    assert want["learning_rate"] == got["learning_rate"] == pytest.approx(1e-7)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_whatever_else_has_a_state(tmp_path: Path, variant: tuple[str, ...]) -> None:
    want, got = whole_and_resumed(tmp_path, (*SMALL, *variant))
    assert got["test_top1" if "test_top1" in want else "test_perplexity"] == pytest.approx(
        want["test_top1" if "test_top1" in want else "test_perplexity"], abs=0
    )
    assert got["learning_rate"] == want["learning_rate"]


PLACES = ("data", "forward", "backward", "exchange", "evaluate", "save", "manifest", "meeting")
# With one checkpoint kept, a file that goes too early leaves nothing to go on from.
TOLD = (
    *(*SMALL, "--evaluate_consensus", "True", "--summary_freq", "2"),
    *("--keep_checkpoints", "1"),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    finished(folder, TOLD)
    return folder


@pytest.mark.parametrize("phase", PLACES)
def test_killed_in_any_phase_the_log_is_that_of_one_run(
    tmp_path: Path, whole: Path, phase: str
) -> None:
    want = summary(whole)
    # Step 14: the end of an epoch; manifests are rank 0's.
    rank = 0 if phase == "manifest" else 1
    killed(run(tmp_path, TOLD, f"kill:{rank}:14:{phase}"))
    got = finished(tmp_path, ("--resume", str(run_folder(tmp_path))))
    assert got["parameters_sha256"] == want["parameters_sha256"]
    assert got["best_test_top1"] == want["best_test_top1"]
    for rank in range(3):
        assert records(tmp_path, rank) == records(whole, rank)


def test_killed_before_the_first_checkpoint_it_begins_again(tmp_path: Path, whole: Path) -> None:
    killed(run(tmp_path, TOLD, "kill:1:3:backward"))
    ended = run(tmp_path, ("--resume", str(run_folder(tmp_path))))
    assert "has no checkpoint: it begins again" in ended.output
    assert summary(tmp_path)["parameters_sha256"] == summary(whole)["parameters_sha256"]
    assert len(list((tmp_path / "runs").glob("*/*/*/*"))) == 1
    assert records(tmp_path, 1) == records(whole, 1)


def test_killed_before_the_log_goes_on(tmp_path: Path, whole: Path) -> None:
    """The second resumption finds the log as long as the first one cut it."""
    killed(run(tmp_path, (*TOLD, *ALWAYS), "kill:1:13:forward"))
    resume = ("--resume", str(run_folder(tmp_path)))
    # Nothing but checkpoints is written before the second step after it.
    start = last_step(run_folder(tmp_path))
    assert start is not None
    killed(run(tmp_path, resume, f"kill:1:{start + 1}:backward"))
    finished(tmp_path, resume)
    for rank in range(3):
        assert records(tmp_path, rank) == records(whole, rank)


def test_killed_at_the_very_end(tmp_path: Path, whole: Path) -> None:
    """In the last evaluation: the steps are not made again."""
    want = summary(whole)
    killed(run(tmp_path, TOLD, "kill:1:21:evaluate"))
    got = finished(tmp_path, ("--resume", str(run_folder(tmp_path))))
    assert [event["step"] for event in got["events"]] == [21]
    for figure in ("parameters_sha256", "test_top1", "train_loss", "consensus_distance"):
        assert got[figure] == want[figure]
