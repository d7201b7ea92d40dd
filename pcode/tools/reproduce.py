"""Run a table of a paper, a file of configs/ for each of its cells, beside the paper's figures.

    python -m pcode.tools.reproduce TABLE [--cells choco-*,all-reduce] [--seeds 3] [--jobs 1]
        [--data digits] [--epochs 40] [--folder data/TABLE] [--markdown FILE.md]
        [--picture FILE.png] [--output FILE.json] [--simulate] [--dry_run]

Tables of arXiv 1907.09356: table1 (DCD-, ECD- and CHOCO-SGD with eleven compressors on a ring of
8), scaling (4 to 64 nodes), social (32 nodes of a social network), datacenter (8 machines of 4
GPUs). On unequal data, with the figures of the worst node: heterogeneity (tables 2 and 5 of arXiv
2110.04175, the table of arXiv 2102.04761, and rows with compression), topology (graphs of 25 nodes,
arXiv 2305.11420).

Without --data the files are run as they stand, in the paper's own setting. --data digits, or
synthetic, is a rehearsal in minutes: all nodes simulated, smaller batches, fewer epochs, and, but
where configs/TABLE.yaml says otherwise, the learning rate .1 for all cells (its milestones at the
same shares of a run), gamma as it is for each compressor without a flag, language models small and
on synthetic:text. Another data set takes the place of the files' own and changes nothing else.

With --simulate all nodes of a run are simulated in one process, to the same bits: a table on one
GPU, `jobs` runs side by side. --dry_run trains a few steps of each cell, in `jobs` copies side by
side, and says how many hours the table takes on this machine, and how many epochs a second it needs
to end within a day.

"div": the loss or a vector is no longer finite; a run that sits at chance has a figure. Every run
is a process of its own, `jobs` at a time; a finished one of the same flags is not run again. A
run that fails otherwise is reported when the others have ended, with exit status 1.
"""

import argparse
import fnmatch
import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from pcode.config import make_config
from pcode.datasets import loader
from pcode.tools.command import FAILED, FORMATS, Parser, check_writable, say, tool, write
from pcode.tools.reproduce_plan import plan_table
from pcode.tools.reproduce_report import caption, draw, markdown, summarise
from pcode.tools.reproduce_tables import ROOT, TABLES, Cell, Setting, Table, is_rehearsal
from pcode.tools.results_runs import DIVERGED as HAS_DIVERGED
from pcode.tools.results_runs import FINISHED, find_runs
from pcode.utils.errors import DIVERGED, UserError

_DEFAULTS = make_config().flat()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m pcode.tools.reproduce", description=__doc__)
    parser.add_argument("table", choices=tuple(TABLES))
    parser.add_argument(
        "--cells", default="*", help="patterns of names of cells, with commas between [all]"
    )
    parser.add_argument("--data", help="data set instead of the paper's; digits: a rehearsal")
    parser.add_argument("--epochs", type=int, help="of each run [the files', or the rehearsal's]")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell [3]")
    parser.add_argument("--jobs", type=int, help="runs at a time [1, in a rehearsal all cores]")
    parser.add_argument(
        "--simulate", action="store_true", help="all nodes of a run in one process, on one GPU"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="say how long it takes here, by a few steps of each"
    )
    parser.add_argument("--folder", type=Path, help="of the runs [data/TABLE]")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    parser.add_argument("--picture", type=Path, help=f"file to draw into ({', '.join(FORMATS)})")
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parsed = parser.parse_args(arguments)
    for name in ("epochs", "seeds", "jobs"):
        if (value := getattr(parsed, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if parsed.data is not None:
        loader(parsed.data)
    for name in ("markdown", "picture", "output"):
        check_writable(name, getattr(parsed, name), FORMATS if name == "picture" else ())
    if parsed.folder is None:
        parsed.folder = Path("data", parsed.table)
    if parsed.folder.exists() and not parsed.folder.is_dir():
        raise UserError(f"--folder {parsed.folder}: is no folder")
    return parsed


def _select(table: Table, patterns: str) -> list[Cell]:
    """Return the cells whose names match one of the patterns."""
    names = [cell.name for cell in table.cells]
    chosen: set[str] = set()
    for pattern in patterns.split(","):
        if not (found := fnmatch.filter(names, pattern)):
            raise UserError(
                f"--cells {pattern!r}: no cell of {table.name} matches; there are "
                f"{', '.join(names)}"
            )
        chosen.update(found)
    return [cell for cell in table.cells if cell.name in chosen]


def _ended(folder: Path, experiment: str, judged: str) -> list[float]:
    """Return the figures of an experiment's runs that have ended; NaN: diverged.

    Raises:
        UserError: a run cannot be read.
    """
    figures = []
    for file in sorted(folder.glob(f"*/*/{experiment}/*/summary.json")):
        run = find_runs([file.parent]).iloc[0]
        if run["state"] == FINISHED:
            if (figure := run[judged]) is None:
                raise UserError(f"{file}: cannot be read: {judged} is not there")
            figures.append(float(figure))
        elif run["state"] == HAS_DIVERGED:
            figures.append(math.nan)
    return figures


def _run_cell(setting: Setting, cell: Cell, seed: int) -> tuple[str, float, str | None]:
    """Return the row of one run, see `run_all`; from its folder where it ran before."""
    try:
        figure, failure = _figure(setting, cell, seed)
    except UserError as error:
        figure, failure = math.nan, str(error)
    return cell.name, figure, f"{cell.name}, seed {seed}: {failure}" if failure else None


def _figure(setting: Setting, cell: Cell, seed: int) -> tuple[float, str | None]:
    """Return the figure of one run and why it failed; raise as `_ended`."""
    # No run of other flags is called so.
    flags = setting.config(cell, seed).flat()
    changed = {name: value for name, value in flags.items() if value != _DEFAULTS[name]}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
    experiment = f"{cell.name}-{seed}-{digest[:8]}"
    figures = _ended(setting.folder, experiment, setting.table.judged)
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
        figures = _ended(setting.folder, experiment, setting.table.judged)
        if done.returncode not in (0, DIVERGED) or not figures:
            said = done.stderr.strip().splitlines() or ["it said nothing"]
            return math.nan, f"ended with status {done.returncode}: {said[-1]}"
    return figures[-1], None


def run_all(setting: Setting, cells: Sequence[Cell], jobs: int) -> pd.DataFrame:
    """Run every cell with every seed, `jobs` at a time; a run that fails does not end the others.

    There is a row for each run: `cell`, its name; `figure`, NaN where it diverged or failed; and
    `failure`, None or a line on a run that failed. Flags that are wrong are an error before any.
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


def _to_json(setting: Setting, cells: pd.DataFrame, runs: pd.DataFrame) -> str:
    figures = runs[runs["failure"].isna()].replace({"figure": {math.nan: None}})
    judged = setting.table.judged
    content = {
        "table": setting.table.name,
        "runs": caption(setting, cells),
        "seeds": list(setting.seeds),
        "cells": [
            {
                "cell": cell.name,
                "paper": cell.paper,
                f"{judged}_{cell.metric}": list(figures["figure"][figures["cell"] == cell.name]),
            }
            for cell in cells.itertuples()
        ],
        "failures": list(runs["failure"].dropna()),
    }
    return json.dumps(content, indent=1) + "\n"


@tool("reproduce")
def main(arguments: Sequence[str]) -> int:
    """Run a table; return 1 where a run failed."""
    options = _parse(arguments)
    table = TABLES[options.table]
    selected = _select(table, options.cells)
    seeds = range(1, options.seeds + 1)
    setting = Setting(table, options.data, options.epochs, seeds, options.folder, options.simulate)
    jobs = options.jobs or ((os.cpu_count() or 1) if is_rehearsal(options.data) else 1)
    if options.dry_run:
        print(plan_table(setting, selected, jobs), end="")
        return 0
    runs = run_all(setting, selected, jobs)
    cells = summarise(table, runs)
    text = markdown(setting, cells)
    print(text, end="")
    write(options.markdown, text)
    write(options.output, _to_json(setting, cells, runs))
    if options.picture is not None:
        draw(setting, cells, options.picture)
    failures = runs["failure"].dropna()
    for failure in failures:
        say(f"reproduce: error: {failure}")
    return FAILED if len(failures) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
