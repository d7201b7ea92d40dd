"""Run the cells of a table of the paper, but for those that have run."""

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pcode.config import Config, make_config, parse
from pcode.tools.reproduce_tables import Cell, Table
from pcode.tools.results_runs import DIVERGED, FINISHED, read_summary
from pcode.utils import errors

ROOT = Path(__file__).parents[2]
# What a table is rehearsed on. Any other data set is trained on with the paper's own flags.
REHEARSED = ("digits", "synthetic")
_DEFAULTS = make_config().flat()


def is_rehearsal(data: str | None) -> bool:
    """Whether the table's rehearsal applies on that data set; None is the files' own."""
    return data is not None and data.partition(":")[0] in REHEARSED


@dataclass(frozen=True)
class Setting:
    """How the cells of a table are run, each once for every seed.

    Attributes:
        data, epochs: instead of the files' own.
        folder: of the runs.
    """

    table: Table
    data: str | None
    epochs: int | None
    seeds: range
    folder: Path

    def flags(self, cell: Cell, seed: int) -> list[str]:
        """Return those of run.py, but for the folder of the run; a UserError: one is wrong."""
        flags = ["--config", str(ROOT / "configs" / self.table.name / f"{cell.name}.yaml")]
        flags += ["--data", self.data] if self.data is not None else []
        epochs = self.epochs
        if is_rehearsal(self.data):
            rehearsal = self.table.rehearsal
            epochs = epochs or rehearsal.epochs
            for pattern, more in rehearsal.flags.items():
                flags += more.split() if fnmatchcase(cell.name, pattern) else []
        flags += ["--manual_seed", f"{seed}"]
        if epochs is not None:
            before = parse(flags).config.flat()
            flags += ["--num_epochs", f"{epochs}"]
            if before["lr_change_epochs"] is not None:
                share = epochs / before["num_epochs"]
                changes = ",".join(f"{epoch * share:g}" for epoch in before["lr_change_epochs"])
                flags += ["--lr_change_epochs", changes]
        return flags

    def config(self, cell: Cell, seed: int) -> Config:
        return parse(self.flags(cell, seed)).config


def _ended(folder: Path, experiment: str, metric: str) -> list[float]:
    """Return the figures of an experiment's runs that have ended; NaN: diverged."""
    figures = []
    for file in sorted(folder.glob(f"*/*/{experiment}/*/summary.json")):
        summary = read_summary(file) or {}
        ending = summary.get("exit_reason", "")
        if ending == FINISHED:
            figures.append(float(summary[f"test_{metric}"]))
        elif ending.startswith(DIVERGED):
            figures.append(math.nan)
    return figures


def _run_cell(setting: Setting, cell: Cell, seed: int) -> tuple[str, float, str | None]:
    """Return the row of one run, see `run_all`; from its folder where it ran before."""
    # No run of other flags is called so.
    flags = setting.config(cell, seed).flat()
    changed = {name: value for name, value in flags.items() if value != _DEFAULTS[name]}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
    experiment = f"{cell.name}-{seed}-{digest[:8]}"
    figures = _ended(setting.folder, experiment, cell.metric)
    if not figures:
        places = ("--checkpoint", str(setting.folder), "--experiment", experiment)
        done = subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *setting.flags(cell, seed), *places],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        figures = _ended(setting.folder, experiment, cell.metric)
        if done.returncode not in (0, errors.DIVERGED) or not figures:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            status = f"ended with status {done.returncode}"
            return cell.name, math.nan, f"{cell.name}, seed {seed}: {status}: {said[-1]}"
    return cell.name, figures[-1], None


def run_all(setting: Setting, cells: Sequence[Cell], jobs: int) -> pd.DataFrame:
    """Run every cell with every seed, `jobs` at a time; a run that fails does not end the others.

    Returns:
        A row for each run: `cell`, its name; `figure`, NaN where it diverged or failed; and
        `failure`, None or a line on a run that failed.

    Raises:
        UserError: a cell's flags are wrong, before any run.
    """
    for cell in cells:
        setting.config(cell, setting.seeds.start)
    setting.folder.mkdir(parents=True, exist_ok=True)
    work = [(cell, seed) for cell in cells for seed in setting.seeds]
    with ThreadPoolExecutor(jobs) as pool:
        # Where it is interrupted, `map` cancels those that have not begun.
        runs = pool.map(lambda run: _run_cell(setting, *run), work)
        rows = list(tqdm(runs, total=len(work), unit="run"))
    return pd.DataFrame(rows, columns=["cell", "figure", "failure"])
