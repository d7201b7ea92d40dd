"""Run folders written by hand, in the format of real ones, and reading what is made of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pcode.tools.results_runs import find_runs
from pcode.tools.results_table import group_runs, groups_of, title
from pcode.utils.timing import PARTS

STEP_SECONDS = dict(zip(("total", *PARTS), (40e-3, *(k * 1e-3 for k in range(1, 8))), strict=True))


def write_run(  # noqa: PLR0917
    folder: Path,
    flags: Mapping[str, Any],
    tests: Sequence[float] = (),
    metric: str = "top1",
    ending: str | None = "finished",
    distance: float = 0.5,
    steps: int = 10,
) -> Path:
    """A run of two nodes, of which node r sends 1000 (r + 1) bytes a step, 2 s an epoch."""
    folder.mkdir(parents=True)
    experiment = {"n_mpi_process": 2, "data": "digits", "arch": "mlp", "experiment": "hand"}
    lines = [f"{name}: {value}" for name, value in {**experiment, **flags}.items()]
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    for rank in range(2):
        (folder / str(rank)).mkdir()
        records: list[dict[str, Any]] = [
            {"kind": "train", "step": 5, "loss": 1.5, "learning_rate": 0.1},
            {"kind": "train", "step": 6, "loss": 1.5, "step_seconds": STEP_SECONDS},
        ]
        for epoch, test in enumerate(tests, start=1):
            records.append(
                {
                    "kind": "evaluation",
                    "step": steps * epoch,
                    "epoch": float(epoch),
                    "train_loss": 1.0,
                    f"test_{metric}": test,
                    f"worst_test_{metric}": test - 1,
                    f"node_test_{metric}": test + 2 * rank - 1,
                    "test_loss": 1.0,
                    "bytes_sent": 1000 * (rank + 1) * steps * epoch,
                    "seconds": 2.0 * epoch,
                    "consensus_distance": distance / epoch,
                }
            )
        (folder / str(rank) / "log.jsonl").write_text(
            "".join(f"{json.dumps(r)}\n" for r in records)
        )
    diverged = ending is not None and ending.startswith("diverged")
    if ending is not None:
        known = {
            f"test_{metric}": tests[-1],
            f"test_{metric}_per_node": [tests[-1] - 1, tests[-1] + 1],
            f"worst_test_{metric}": tests[-1] - 1,
            f"averaged_model_test_{metric}": tests[-1] + 3,
            f"best_test_{metric}": max(tests) if metric == "top1" else min(tests),
            "consensus_distance": distance / len(tests),
            "bytes_sent_per_step": 1500.0,
            "bytes_sent_total": 3000 * steps * len(tests),
            "step_seconds": STEP_SECONDS,
        }
        summary = {
            **(dict.fromkeys(known) if diverged else known),
            "num_steps": steps * len(tests),
            "num_epochs": float(len(tests)),
            "train_seconds": 2.0 * len(tests),
            "exit_reason": ending,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def runs_of(place: Path) -> pd.DataFrame:
    """Return the runs of the only data set there, grouped."""
    (runs,) = group_runs(find_runs([place])).values()
    return runs


def titles_of(place: Path) -> list[str]:
    """Return the title of each group there."""
    return [title(group) for group in groups_of(runs_of(place))]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def points_of(line: Line2D) -> NDArray[np.float64]:
    """What a line shows: x and y of each point."""
    return np.asarray(line.get_xydata(), float)
