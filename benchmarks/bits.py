"""What short runs of every kind end with: a refactoring leaves all of it as it was.

    python benchmarks/bits.py --output FILE     keeps it
    python benchmarks/bits.py --against FILE    compares with what is kept; status 1 where it
    differs

Of each run: the digest of each node's parameters, the bytes of a message, the numbers that
--dry_run prints, the names of its files, the flags that it leaves, and every recorded number that
is not a time. Digests depend on the kind of processor: compare on the machine that wrote them.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from harness import machine

RUN = Path(__file__).parents[1] / "run.py"
QUICK = "--data synthetic:1x8x8:10:400 --arch mlp --num_epochs 1 --num_threads 1".split()
LANGUAGE = "--data synthetic:text:50:3000 --arch rnn_lm --rnn_n_hidden 16 --num_threads 1".split()
COMPRESSORS = ("none", "sign", "compress_top_k", "compress_random_k", "quantize_qsgd")
COMPRESSING = ("parallel_choco", "dcd_psgd", "ecd_psgd", "deep_squeeze")
CENTRALIZED = "--graph_topology complete"
GRAPHS = """complete torus expander margulis_expander ring_ext data_center chain star
    hypercube exponential random_regular erdos_renyi""".split()
CHANGING = ("one_peer_exponential", "random_matching")
SCHEDULES = (
    "custom_multistep --lr_change_epochs 1,2 --lr_decay 5",
    "strict --lr_change_epochs 1,2 --lr_fields 0.1,0.2/0.2,0.1/0.1,0.01 "
    "--lr_scale_indicators 0,1,0",
    "custom_one_cycle --lr_onecycle_num_epoch 2",
    "custom_convex_decay --lr_gamma 1 --lr_mu 2 --lr_alpha 5",
    "reduce_on_plateau",
)
MODELS = "resnet8 densenet22 wideresnet10 lenet logistic_regression"
# Times, and what depends on them.
TIMES = re.compile(r"seconds|_time|time_")


def simulated() -> Iterator[str]:
    """Runs whose nodes are all in one process."""
    for optimizer, compressor in itertools.product(COMPRESSING, COMPRESSORS):
        biased = "True" if compressor == "compress_top_k" else str(optimizer != "ecd_psgd")
        yield f"--optimizer {optimizer} --comm_op {compressor} --is_biased {biased}"
        if optimizer == "parallel_choco" and compressor != "none":
            yield f"--optimizer {optimizer} --comm_op {compressor} --overlap False"
    for optimizer in ("ef_sign_sgd", "dgc"):
        for compressor in COMPRESSORS:
            yield f"--optimizer {optimizer} --comm_op {compressor} {CENTRALIZED}"
    for level in (2, 4, 16, 32):
        yield f"--comm_op quantize_qsgd --quantize_level {level}"
    yield "--comm_op compress_random_k --is_biased False --compress_ratio 0.5"
    for graph in (*GRAPHS, *CHANGING):
        choco = "" if graph in CHANGING else "--optimizer parallel_choco"
        yield f"--n_mpi_process 8 --graph_topology {graph} {choco or '--optimizer sgd'}"
    yield "--n_mpi_process 32 --graph_topology social"
    yield "--optimizer sgd"
    yield "--optimizer sgd --local_step 3 --graph_topology complete"
    yield "--local_step 3 --turn_on_local_step_from 1 --num_epochs 3"
    yield "--local_optimizer adam --lr 0.01"
    yield "--local_optimizer adam --local_adam_memory_treatment reset --optimizer dcd_psgd"
    yield "--use_nesterov True --weight_decay 0.01 --clip_grad True --clip_grad_val 0.5"
    yield "--momentum_factor 0 --avg_model True --evaluate_avg True --evaluate_consensus True"
    yield (
        "--optimizer dgc --comm_op compress_top_k --mask_momentum True --clip_grad True "
        f"--clip_grad_val 1 --compress_warmup_epochs 2 --num_epochs 3 {CENTRALIZED}"
    )
    yield f"--optimizer ef_sign_sgd --comm_op sign --majority_vote True {CENTRALIZED}"
    yield "--consensus_stepsize auto --comm_op compress_top_k"
    yield "--optimizer deep_squeeze --consensus_stepsize auto --comm_op quantize_qsgd"
    for schedule in SCHEDULES:
        yield f"--lr_schedule_scheme {schedule} --num_epochs 3"
    yield "--lr_scaleup True --lr_warmup True --lr_warmup_epochs 2 --base_batch_size 16"
    yield "--partition_data dirichlet:0.5:2 --reshuffle_per_epoch True --num_epochs 2"
    yield "--partition_data sorted"
    yield "--amp bf16 --stop_criteria iteration --num_iterations 40"
    yield "--on_failure continue --save_all_models True --num_epochs 2"
    for model in MODELS.split():
        yield f"--data synthetic:3x32x32:10:64 --arch {model} --batch_size 8 --n_mpi_process 2"
    yield " ".join(LANGUAGE)
    yield " ".join([*LANGUAGE, "--rnn_weight_norm True --rnn_tie_weights False --drop_rate 0.2"])


def started() -> Iterator[str]:
    """Runs whose nodes are processes; over gloo and mpi the same."""
    for backend in ("mpi", "gloo"):
        yield f"--backend {backend}"
        for optimizer in ("dcd_psgd", "ecd_psgd", "deep_squeeze"):
            yield f"--backend {backend} --optimizer {optimizer} --comm_op quantize_qsgd"
        yield f"--backend {backend} --optimizer sgd --n_mpi_process 3"
        yield f"--backend {backend} --optimizer dgc --comm_op compress_top_k {CENTRALIZED}"
        yield f"--backend {backend} --n_mpi_process 2 --n_sub_process 2 --overlap False"
        yield " ".join([f"--backend {backend} --n_mpi_process 2", *LANGUAGE])


def resumed() -> Iterator[str]:
    """Runs that are resumed from the checkpoint after their first epoch."""
    epochs = "--num_epochs 3 --keep_checkpoints 5"
    for optimizer in ("parallel_choco", "deep_squeeze", "ecd_psgd", "sgd"):
        yield f"--backend sim --optimizer {optimizer} {epochs}"
    yield f"--backend sim --lr_schedule_scheme reduce_on_plateau --local_optimizer adam {epochs}"
    yield f"--backend mpi {epochs} --partition_data dirichlet:0.5:2 --reshuffle_per_epoch True"
    yield f"--backend sim {' '.join(LANGUAGE)} {epochs}"


def _flags(run: str) -> list[str]:
    """QUICK, 4 nodes and one thread unless the run says otherwise: a flag stands there once."""
    found: dict[str, str] = {}
    for words in (["--n_mpi_process", "4", "--evaluate_consensus", "True"], QUICK, run.split()):
        found.update(zip(words[::2], words[1::2], strict=True))
    return [word for pair in found.items() for word in pair]


def _run(arguments: list[str], folder: Path) -> tuple[int, str]:
    """run.py with these flags; status and output."""
    done = subprocess.run(
        [sys.executable, str(RUN), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout + done.stderr


def _without_times(record: Any) -> Any:
    if isinstance(record, dict):
        return {
            name: _without_times(value)
            for name, value in record.items()
            if not TIMES.search(name) and name != "resumed"  # a path
        }
    return [_without_times(each) for each in record] if isinstance(record, list) else record


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _figures(text: str) -> list[str]:
    """The numbers that --dry_run prints below the command and the flags."""
    _, _, below = text.partition("\ndata:")
    return re.findall(r"\d[\d,.]*(?:e-?\d+)?", below)


def _found(folder: Path) -> dict[str, Any]:
    """What the one run in a folder has left."""
    (run,) = (folder / "runs").glob("*/*/*/*")
    summary = json.loads((run / "summary.json").read_text())
    files = sorted(
        re.sub(r"tfevents.*", "tfevents", str(file.relative_to(run)))
        for file in run.rglob("*")
        if file.is_file()
    )
    records = [
        [_without_times(json.loads(line)) for line in log.read_text().splitlines()]
        for log in sorted(run.glob("*/log.jsonl"))
    ]
    flags = [
        line
        for line in (run / "config.yaml").read_text().splitlines()
        if not line.startswith(("resume:", "timestamp:"))
    ]
    return {
        "parameters_sha256": summary["parameters_sha256"],
        "message_bytes": summary["message_bytes"],
        "summary": _digest(_without_times(summary)),
        "summary_names": sorted(summary),
        "records": _digest(records),
        "flags": _digest(sorted(flags)),
        "files": files,
    }


def measure(run: str, *, resume: bool = False) -> dict[str, Any]:
    """What a run leaves; status and output of one that fails."""
    flags = [*_flags(run), "--checkpoint", "runs"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        status, described = _run([*flags, "--dry_run"], folder)
        found: dict[str, Any] = {"dry_run": _digest(_figures(described)) if status == 0 else status}
        status, output = _run(flags, folder)
        if resume and status == 0:
            (start,) = (folder / "runs").glob("*/*/*/*")
            again = ["--resume", str(start), "--checkpoint_index", "1"]
            status, output = _run(again, folder)
        found["status"] = status
        if status == 0:
            found |= _found(folder)
        else:
            print(run, output[-2000:], sep="\n", file=sys.stderr)
    return found


def _all(only: str) -> dict[str, Any]:
    runs = [*(f"--backend sim {run}" for run in simulated()), *started()]
    asked = {run: partial(measure, run) for run in runs}
    asked |= {f"resumed {run}": partial(measure, run, resume=True) for run in resumed()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = {run: pool.submit(ask) for run, ask in asked.items() if only in run}
        return {run: future.result() for run, future in waiting.items()}


def _differences(kept: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for run in sorted(kept.keys() | found.keys()):
        before, now = kept.get(run, {}), found.get(run, {})
        for part in before or now:
            if before.get(part) != now.get(part):
                yield f"{run}: {part}: {before.get(part)} -> {now.get(part)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="where to write what is found")
    parser.add_argument("--against", type=Path, help="what was found before")
    parser.add_argument("--only", default="", help="the runs in whose flags these words stand")
    asked = parser.parse_args()
    runs = _all(asked.only)
    print(f"{len(runs)} runs, {sum(run['status'] == 0 for run in runs.values())} of them trained")
    if asked.output:
        content = {"machine": machine(), "runs": runs}
        asked.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if asked.against:
        before = json.loads(asked.against.read_text())["runs"]
        before = {run: found for run, found in before.items() if asked.only in run}
        differing = list(_differences(before, runs))
        print(*differing, f"{len(differing)} differences", sep="\n")
        sys.exit(bool(differing))


if __name__ == "__main__":
    main()
