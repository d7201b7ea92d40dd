"""Every flag, with a value that is not its default, has the effect that its help text says."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from pcode.config import Config, make_config
from pcode.datasets import DATASETS
from pcode.datasets.digits import load_digits_dataset
from pcode.datasets.in_memory import InMemory
from pcode.main import main
from pcode.optim import OPTIMIZERS, ParallelChoco

# A run of four steps.
RUN = "--backend sim --arch mlp --data digits --stop_criteria iteration --num_iterations 8 ".split()
EPOCHS = "--stop_criteria epoch --batch_size 256".split()  # two steps each
MULTISTEP = "--lr_schedule_scheme custom_multistep --lr_change_epochs .02".split()
STRICT = "--lr_schedule_scheme strict --lr_change_epochs .02 --lr_fields .1,.1/.1,.01".split()
STRICT += "--lr_scale_indicators 0,0".split()
ONE_CYCLE = "--lr_schedule_scheme custom_one_cycle --lr_onecycle_num_epoch 1".split()
ONE_CYCLE += "--stop_criteria epoch --num_epochs 2 --batch_size 256".split()
CONVEX = "--lr_schedule_scheme custom_convex_decay --lr_gamma .1 --lr_mu 1 --lr_alpha 1".split()
SCALED = "--lr_scaleup True --base_batch_size 16".split()
ADAM = "--local_optimizer adam --lr .01".split()
TEXT = "--data synthetic:text:50:4000 --arch rnn_lm --batch_size 4 --rnn_n_hidden 16".split()
POWER = ("--optimizer", "power_gossip")
DGC = "--optimizer dgc --graph_topology complete --comm_op compress_top_k".split()
TINY = "--data synthetic:3x8x8:4:64 --batch_size 8".split()


@dataclass
class Run:
    """What a run in this process gave."""

    status: int
    out: str
    err: str
    folder: Path | None

    @property
    def summary(self) -> dict[str, Any]:
        assert self.folder is not None, self.err
        content: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return content

    def records(self, kind: str) -> list[dict[str, Any]]:
        assert self.folder is not None, self.err
        lines = (self.folder / "0/log.jsonl").read_text().splitlines()
        return [record for record in map(json.loads, lines) if record["kind"] == kind]

    @property
    def names(self) -> set[str]:
        assert self.folder is not None, self.err
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


def start(place: Path, *flags: str) -> Run:
    """run.py with these flags, in this process."""
    shutil.rmtree(place / "runs", ignore_errors=True)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["--checkpoint", str(place / "runs"), *flags])
    found = re.search(r"^results: (.*)$", out.getvalue(), re.MULTILINE)
    return Run(status, out.getvalue(), err.getvalue(), Path(found[1]) if found else None)


Check = Callable[[Run, Run], bool]


@dataclass(frozen=True)
class Effect:
    """A flag's value, the flags beside it, and what is different from a run without it."""

    value: str
    check: Check
    beside: list[str] = field(default_factory=list)
    dry: bool = False


def trained(value: str, *beside: str) -> Effect:
    """Another model comes out."""

    def check(with_it: Run, without: Run) -> bool:
        digests = [run.summary["parameters_sha256"] for run in (with_it, without)]
        return with_it.status == without.status == 0 and digests[0] != digests[1]

    return Effect(value, check, list(beside))


def summarised(name: str, want: Any, value: str, *beside: str) -> Effect:
    """A figure of the summary is another, and the one wanted."""

    def check(with_it: Run, without: Run) -> bool:
        return bool(with_it.summary[name] == pytest.approx(want) != without.summary[name])

    return Effect(value, check, list(beside))


def recorded(check: Check, value: str, *beside: str) -> Effect:
    """What is kept or printed differs."""
    return Effect(value, check, list(beside))


def described(words: str, value: str, *beside: str) -> Effect:
    """A dry run says so."""

    def check(with_it: Run, without: Run) -> bool:
        assert words in with_it.out
        return words not in without.out

    return Effect(value, check, list(beside), dry=True)


def warned(words: str, value: str, *beside: str) -> Effect:
    """It cannot matter here, and says why."""
    return Effect(value, lambda with_it, _: words in with_it.err, list(beside), dry=True)


def refused(words: str, value: str) -> Effect:
    """It needs what this machine or this version does not have, and says so."""

    def check(with_it: Run, _: Run) -> bool:
        return with_it.status == 2 and words in with_it.err

    return Effect(value, check, dry=True)


def loaded(name: str, value: str, want: Any) -> Effect:
    """A data set that takes the flag is given it."""
    return Effect(value, lambda *_: LOADED[name] == want, ["--data", "own"])


LOADED: dict[str, Any] = {}


OVERLAPPED: set[bool] = set()


class Watched(ParallelChoco):
    """CHOCO-SGD, of which it is known whether it overlaps."""

    def __init__(self, *arguments: Any, overlap: bool, **flags: Any) -> None:
        super().__init__(*arguments, overlap=overlap, **flags)
        OVERLAPPED.clear()
        OVERLAPPED.add(overlap)


def load_own(
    data_dir: str, download: bool, use_lmdb_data: bool, num_workers: int, pin_memory: bool
) -> InMemory:
    LOADED.update(locals())
    return load_digits_dataset()


def other_size(value: str, *beside: str) -> Effect:
    """A model of another size."""

    def check(with_it: Run, without: Run) -> bool:
        return bool(with_it.summary["num_parameters"] != without.summary["num_parameters"])

    return Effect(value, check, list(beside))


def wrote(name: str) -> Check:
    return lambda with_it, without: name in with_it.names and name not in without.names


def without_a_checkpoint(step: int) -> Check:
    name = f"checkpoints/{step}.json"
    return lambda with_it, without: name not in with_it.names and name in without.names


def half_the_bytes(with_it: Run, without: Run) -> bool:
    sent = [run.summary["bytes_sent_total"] for run in (with_it, without)]
    return bool(0 < 2 * sent[0] == sent[1])


def num_evaluations(want: int) -> Check:
    return lambda with_it, without: (
        len(with_it.records("evaluation")) == want != len(without.records("evaluation"))
    )


def evaluations_hold(name: str) -> Check:
    return lambda with_it, without: (
        name in with_it.records("evaluation")[0] and name not in without.records("evaluation")[0]
    )


def printed(words: str) -> Check:
    return lambda with_it, without: words in with_it.out and words not in without.out


def lies_under(name: str) -> Check:
    return lambda with_it, without: (
        name in str(with_it.folder).split("/") and name not in str(without.folder).split("/")
    )


def labelled(words: str) -> Check:
    return lambda with_it, without: words in (Path(str(with_it.folder)) / "config.yaml").read_text()


def compiled(with_it: Run, without: Run) -> bool:
    """torch has made a graph of the model; nothing else here compiles."""
    return bool(torch._dynamo.utils.counters["stats"]["unique_graphs"])


EFFECTS: dict[str, Effect] = {
    "n_mpi_process": described("ring, 3 nodes", "3"),
    "n_sub_process": described("ring, 2 nodes of 2 processes with 16 samples", "2"),
    "world": warned("--world: no node uses a GPU", "0,1"),
    "hostfile": described("--host localhost:2", "hosts", "--backend", "mpi"),
    "backend": described("command: none", "sim", "--backend", "mpi"),
    "python_path": described("/own/python", "own/python", "--backend", "mpi"),
    "mpi_path": described("/own/bin/mpirun", "own", "--backend", "mpi"),
    "mpi_env": described("-x A=1", "A=1", "--backend", "mpi"),
    "work_dir": described("--wdir", "own", "--backend", "mpi"),
    "use_ipc": warned("--use_ipc: no node uses a GPU", "True"),
    "on_cuda": refused("--on_cuda True", "True"),
    "comm_device": warned("--comm_device: no node uses a GPU", "cuda"),
    "num_threads": recorded(lambda *_: torch.get_num_threads() == 3, "3"),
    "time_limit_seconds": warned("simulated nodes need no time limit", "10"),
    "num_workers": loaded("num_workers", "3", 3),
    "pin_memory": loaded("pin_memory", "False", False),
    "local_rank": warned("it is not needed any more", "0"),
    "remote_exec": warned("it is not needed any more", "True"),
    "clean_python": warned("it is not needed any more", "True"),
    "user": recorded(labelled("user: ada"), "ada"),
    "project": recorded(labelled("project: ring"), "ring"),
    "data": trained("synthetic:1x8x8:10:64"),
    "data_dir": loaded("data_dir", "elsewhere", "elsewhere"),
    "download": loaded("download", "True", True),
    "use_lmdb_data": loaded("use_lmdb_data", "True", True),
    "partition_data": trained("sorted"),
    "non_iid_alpha": trained(".2", "--partition_data", "non_iid_dirichlet"),
    "reshuffle_per_epoch": trained("True", *EPOCHS, "--num_epochs", "2"),
    "batch_size": summarised("num_epochs", 4 / (1437 // 128), "64"),
    "base_batch_size": summarised("learning_rate", 0.1 * 2 * 32 / 8, "8", "--lr_scaleup", "True"),
    "arch": other_size("logistic_regression"),
    "densenet_growth_rate": other_size("4", *TINY, "--arch", "densenet16"),
    "densenet_bc_mode": other_size("True", *TINY, "--arch", "densenet16"),
    "densenet_compression": other_size(
        ".25", *TINY, "--arch", "densenet16", "--densenet_bc_mode", "True"
    ),
    "wideresnet_widen_factor": other_size("1", *TINY, "--arch", "wideresnet10"),
    "mlp_num_layers": other_size("3"),
    "mlp_hidden_size": other_size("16"),
    "normalization": other_size("none", *TINY, "--arch", "vgg11"),
    "drop_rate": trained(".5"),
    "rnn_n_hidden": other_size("8", *TEXT),
    "rnn_n_layers": other_size("1", *TEXT),
    "rnn_bptt_len": trained("7", *TEXT),
    "rnn_clip": trained(".001", *TEXT),
    "rnn_use_pretrained_emb": trained("True", *TEXT, "--data_dir", "vectors"),
    "rnn_tie_weights": other_size("False", *TEXT),
    "rnn_weight_norm": other_size("True", *TEXT),
    "optimizer": trained("deep_squeeze"),
    "local_optimizer": trained("adam"),
    "lr": summarised("learning_rate", 0.3, "0.3"),
    "momentum_factor": trained("0.5"),
    "use_nesterov": trained("True"),
    "weight_decay": trained("0.01"),
    "adam_beta_1": trained("0.5", *ADAM),
    "adam_beta_2": trained("0.9", *ADAM),
    "adam_eps": trained("0.1", *ADAM),
    "local_adam_memory_treatment": trained("reset", *ADAM),
    "lr_schedule_scheme": summarised("learning_rate", 0.01, "custom_multistep", *MULTISTEP[2:]),
    "lr_change_epochs": summarised("learning_rate", 0.1, "1", *MULTISTEP),
    "lr_fields": summarised("learning_rate", 0.7, ".7,.7/.7,.7", *STRICT),
    "lr_scale_indicators": trained("0,1", *STRICT, "--num_iterations", "20"),
    "lr_decay": summarised("learning_rate", 0.05, "2", *MULTISTEP),
    "lr_gamma": trained("0.2", *CONVEX),
    "lr_mu": trained("2", *CONVEX),
    "lr_alpha": trained("2", *CONVEX),
    "lr_onecycle_low": trained(".3", *ONE_CYCLE),
    "lr_onecycle_high": trained(".5", *ONE_CYCLE),
    "lr_onecycle_extra_low": trained(".05", *ONE_CYCLE),
    "lr_onecycle_num_epoch": trained("2", *ONE_CYCLE),
    "lr_scaleup": summarised("learning_rate", 0.2, "True"),
    "lr_scaleup_type": summarised("learning_rate", 0.1 * 4**0.5, "sqrt", *SCALED),
    "lr_scaleup_factor": summarised("learning_rate", 0.1 * 2 * 5, "5", *SCALED),
    "lr_warmup": trained("True", *SCALED),
    "lr_warmup_epochs": trained("1", *SCALED, "--lr_warmup", "True"),
    "num_epochs": summarised("num_steps", 3 * 2, "3", *EPOCHS),
    "num_iterations": summarised("num_steps", 3, "6"),
    "stop_criteria": summarised("num_steps", 2, "epoch", *EPOCHS[2:], "--num_epochs", "1"),
    "clip_grad": trained("True", "--clip_grad_val", ".01"),
    "clip_grad_val": trained(".02", "--clip_grad", "True", "--clip_grad_val", ".01"),
    "amp": trained("bf16"),
    "compile": recorded(compiled, "True"),
    "local_step": recorded(half_the_bytes, "2"),
    "turn_on_local_step_from": trained("2", *EPOCHS, "--local_step", "2", "--num_epochs", "3"),
    "avg_model": recorded(
        lambda with_it, without: (
            len(set(with_it.summary["parameters_sha256"])) == 1
            and len(set(without.summary["parameters_sha256"])) == 2
        ),
        "True",
    ),
    "manual_seed": trained("7"),
    "graph_topology": summarised("spectral_gap", 0.25, "star", "--n_mpi_process", "4"),
    "drop_messages": trained(".3", "--optimizer", "sgd"),
    "comm_op": trained("none"),
    "compress_ratio": trained("0.5", "--comm_op", "compress_top_k"),
    "quantize_level": trained("4", "--comm_op", "quantize_qsgd"),
    "is_biased": trained("False", "--comm_op", "quantize_qsgd"),
    "majority_vote": trained("True", "--optimizer", "ef_sign_sgd", "--graph_topology", "complete"),
    "mask_momentum": trained("True", *DGC),
    "comm_algo": warned("it is not needed any more", "tree"),
    "compress_warmup_values": trained(".1", *DGC, "--compress_warmup_epochs", "1"),
    "compress_warmup_epochs": trained("1", *DGC),
    "consensus_stepsize": trained("0.2"),
    "gossip_beta": trained("0.5", "--optimizer", "ada_gossip", "--consensus_stepsize", ".01"),
    "gossip_rank": trained("2", *POWER),
    "power_iterations": trained("2", *POWER),
    "mix_promptly": trained("True", *POWER),
    "global_decay": trained("0.5", "--optimizer", "decentralized_qg_sgd"),
    "exact_diffusion": trained("True", "--optimizer", "d2"),
    "copy_share": trained("0.9", "--optimizer", "lead"),
    "overlap": recorded(lambda *_: {False} == OVERLAPPED, "False"),
    "check_messages": warned("messages of simulated nodes stay in memory", "False"),
    "max_restarts": warned("--backend sim runs all nodes in this process", "3"),
    "on_failure": Effect(
        "continue",
        lambda with_it, without: (
            (with_it.status, without.status) == (2, 0)
            and "--on_failure continue: --backend gloo cannot go on" in with_it.err
        ),
        ["--backend", "gloo"],
        dry=True,
    ),
    "checkpoint_minutes": recorded(without_a_checkpoint(2), "1000", *EPOCHS, "--num_epochs", "2"),
    "keep_checkpoints": recorded(without_a_checkpoint(2), "1", *EPOCHS, "--num_epochs", "2"),
    "evaluate": refused("--evaluate True: needs the folder of a run", "True"),
    "resume": refused("there is no somewhere/config.yaml", "somewhere"),
    "checkpoint_index": warned("it has no effect without --resume", "3"),
    "eval_freq": recorded(num_evaluations(2), "2", *EPOCHS, "--num_epochs", "4"),
    "evaluate_avg": recorded(
        evaluations_hold("averaged_model_test_top1"), "True", *EPOCHS, "--num_epochs", "2"
    ),
    "evaluate_consensus": recorded(
        evaluations_hold("consensus_distance"), "True", *EPOCHS, "--num_epochs", "2"
    ),
    "train_fast": recorded(num_evaluations(1), "True", *EPOCHS, "--num_epochs", "3"),
    "track_time": recorded(
        lambda with_it, without: (
            with_it.summary["step_seconds"] is None and without.summary["step_seconds"]["total"] > 0
        ),
        "False",
    ),
    "track_detailed_time": recorded(
        lambda with_it, without: len(with_it.records("step")) == 4 and not without.records("step"),
        "True",
    ),
    "display_tracked_time": recorded(printed("ms: data "), "True"),
    "summary_freq": recorded(
        lambda with_it, without: (
            [r["step"] for r in with_it.records("train")] == [2, 4] and not without.records("train")
        ),
        "2",
    ),
    "checkpoint": recorded(lies_under("elsewhere"), "elsewhere"),
    "experiment": recorded(lies_under("mine"), "mine"),
    "timestamp": recorded(lies_under("first"), "first"),
    "save_all_models": recorded(wrote("1/model_2.pt"), "True", *EPOCHS, "--num_epochs", "2"),
    "save_some_models": recorded(wrote("1/model_2.pt"), "2,3", *EPOCHS, "--num_epochs", "3"),
}


def flag_names(config: Config) -> set[str]:
    return set(config.flat())


def test_every_flag_is_here() -> None:
    assert set(EFFECTS) == flag_names(make_config())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("own/bin/mpirun", "own/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    (tmp_path / "vectors").mkdir()
    rows = (f"{word} {' '.join(['.05'] * 16)}" for word in ("word3", "word1", "word4"))
    (tmp_path / "vectors/own.16d.txt").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(DATASETS, "own", load_own)
    monkeypatch.setitem(OPTIMIZERS, "parallel_choco", Watched)
    monkeypatch.delenv("PCODE_LAUNCHER", raising=False)
    return tmp_path


def overridden(flags: list[str]) -> list[str]:
    """The last value of each flag: what stands beside a flag wins over RUN."""
    pairs: Mapping[str, str] = dict(zip(flags[::2], flags[1::2], strict=True))
    return [word for pair in pairs.items() for word in pair]


@pytest.mark.parametrize(("name", "effect"), EFFECTS.items(), ids=EFFECTS)
def test_a_flag_has_its_effect(place: Path, name: str, effect: Effect) -> None:
    if name == "on_cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    dry = ["--dry_run"] if effect.dry else []
    beside = overridden([*RUN, *effect.beside])
    threads = torch.get_num_threads()
    try:
        without = start(place / "without", *beside, *dry)
        with_it = start(place / "with", *beside, f"--{name}", effect.value, *dry)
        assert effect.check(with_it, without), with_it.err
    finally:
        torch.set_num_threads(threads)
