"""Runs killed at random moments: all processes end, the last checkpoint loads, the run goes on.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--output FILE.json]

An MLP with dropout on digits, 3 nodes under mpirun on a ring, sign-CHOCO, 8 epochs of some .3 s,
evaluation and checkpoint after each. A run without failures gives the digest of the parameters. Of
ten trials,

- five kill (SIGKILL) a random rank at a random moment of the training;
- three kill a random rank at a random step in a given phase: those of PHASES in turn;
- one kills, at a random moment, the process that loads the data of a random rank; this run has
  small images and a logistic regression in the place of digits and MLP;
- one kills the launcher or mpirun at a random moment.

A kill that came after the run had finished is late: counted, and drawn again. Checked each time:

- all processes of the run are gone within 15 s of the kill, and its exit status is not 0;
- no semaphore of a process has come to lie in /dev/shm;
- every checkpoint that the folder says it has loads, with the digest that was written down;
- `run.py --resume` goes on from the last one, ends with status 0 and has the digest.

Exit status 1 if a check failed; what such a trial left is kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from harness import keep
from killed_run import (
    DIGITS,
    EPOCHS,
    NODES,
    CheckError,
    Kill,
    Outcome,
    Reference,
    attempt,
    flags_of_images,
    measure_reference,
)
from pcode.utils.errors import UserError
from started import LimitExceededError, end_in_good_order

AFTER_EPOCHS = ("meeting", "evaluate", "save", "manifest")
PHASES = ("data", "forward", "backward", "exchange", *AFTER_EPOCHS)
DRAWS = 5
# Which of ten trials kills a process that loads data.
LOADERS = 7


def draw(number: int, draws: random.Random, reference: Reference) -> Kill:
    """The kill of trial `number`, another one each time."""
    moment = draws.uniform(0, reference.moments[-1])
    epochs = sum(passed <= moment for passed in reference.moments) - 1
    seconds = moment - reference.moments[epochs]
    if number % 10 == 9:
        target = "launcher" if number // 10 % 2 == 0 else "mpirun"
        return Kill(target, epochs=epochs, seconds=seconds)
    rank = draws.randrange(NODES)
    if number % 10 == LOADERS:
        return Kill("loader", rank, epochs=epochs, seconds=seconds)
    if number % 2 == 0:
        return Kill("rank", rank, epochs=epochs, seconds=seconds)
    phase = PHASES[number // 2 % len(PHASES)]
    step = draws.randrange(reference.num_steps)
    if phase in AFTER_EPOCHS:
        step = draws.randint(1, EPOCHS) * (reference.num_steps // EPOCHS)
    return Kill("rank", 0 if phase == "manifest" else rank, phase, step)


def trial(number: int, place: Path, draws: random.Random, reference: Reference) -> dict[str, Any]:
    """One kill that came in time, with what it led to, and how many were late."""
    for late in range(DRAWS):
        kill, again = draw(number, draws, reference), place / str(late)
        row = {"number": number, "kind": kill.kind, "late": late, **dataclasses.asdict(kill)}
        # Of the same name: the seconds of the moment.
        row["moment_seconds"] = row.pop("seconds")
        try:
            outcome = attempt(again, kill, reference)
        except (CheckError, LimitExceededError, UserError) as error:
            print(f"{number:3d} {kill}: FAILED: {error} (kept: {again})", flush=True)
            return {**row, "failure": str(error)}
        shutil.rmtree(again)
        if not outcome.late:
            print(f"{number:3d} {kill}: {text(outcome, reference)}", flush=True)
            return {**row, **dataclasses.asdict(outcome), "late": late, "failure": None}
        print(f"{number:3d} {kill}: late, drawn again", flush=True)
    print(f"{number:3d} FAILED: {DRAWS} kills came too late", flush=True)
    return {**row, "late": DRAWS, "failure": f"{DRAWS} kills came too late"}


def text(outcome: Outcome, reference: Reference) -> str:
    step = outcome.checkpoint_step
    begin = "the beginning" if step is None else f"epoch {step * EPOCHS / reference.num_steps:g}"
    return (
        f"status {outcome.status}, gone after {outcome.seconds:.2f} s, went on from {begin} "
        f"in {outcome.resumed_seconds:.1f} s"
    )


def table(rows: list[dict[str, Any]], reference: Reference) -> list[str]:
    """A line for each kind of kill, and one for all."""
    lines = [
        "| killed | trials | failed | late draws | until all gone (s): median | max "
        "| went on from the checkpoint of epoch |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    kinds = sorted({row["kind"] for row in rows})
    for kind in [*kinds, "all"]:
        of_kind = [row for row in rows if kind in (row["kind"], "all")]
        good = [row for row in of_kind if row["failure"] is None]
        cells = [kind, len(of_kind), len(of_kind) - len(good), sum(row["late"] for row in of_kind)]
        seconds = [row["seconds"] for row in good]
        cells += (
            [f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"] if seconds else ["", ""]
        )
        steps = Counter(
            (row["checkpoint_step"] or 0) * EPOCHS // reference.num_steps for row in good
        )
        cells.append(", ".join(f"{epoch}: {steps[epoch]}" for epoch in sorted(steps)))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    end_in_good_order()
    place = Path(tempfile.mkdtemp(prefix="kills-"))
    reference = measure_reference(place / "reference", DIGITS)
    of_images = measure_reference(place / "images", flags_of_images(place / "images_drawn"))
    print(
        f"without failures: {reference.num_steps} steps, {reference.moments[-1]:.1f} s of training",
        flush=True,
    )
    draws = random.Random(arguments.seed)
    rows = [
        trial(
            number,
            place / str(number),
            draws,
            of_images if number % 10 == LOADERS else reference,
        )
        for number in range(arguments.kills)
    ]
    print(*table(rows, reference), sep="\n")
    failed = sum(row["failure"] is not None for row in rows)
    left = [sum(bool(row.get(name)) for row in rows) for name in ("left_by_kill", "left_at_end")]
    print(f"unfinished files: after {left[0]} kills, after {left[1]} resumed runs")
    print(f"{failed} of {len(rows)} trials failed")
    keep(
        arguments.output,
        {"seed": arguments.seed, "reference": dataclasses.asdict(reference), "trials": rows},
    )
    if not failed:
        shutil.rmtree(place)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
