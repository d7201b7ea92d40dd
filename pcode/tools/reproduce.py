"""Run a table of the paper, a file of configs/ for each of its cells, beside the paper's figures.

    python -m pcode.tools.reproduce TABLE [--cells choco-*,all-reduce] [--seeds 3] [--jobs 1]
        [--data digits] [--epochs 40] [--folder data/TABLE] [--markdown FILE.md]
        [--picture FILE.png] [--output FILE.json]

Tables of arXiv 1907.09356: table1 (DCD-, ECD- and CHOCO-SGD with eleven compressors on a ring of
8), scaling (4 to 64 nodes), social (32 nodes of a social network), datacenter (8 machines of 4
GPUs).

Without --data the files are run as they stand, in the paper's own setting. --data digits, or
synthetic, is a rehearsal in minutes: all nodes simulated, smaller batches, fewer epochs, the
learning rate .1 for all cells (its milestones at the same shares of a run), gamma as it is for
each compressor without a flag, language models small and on synthetic:text. Another data set
takes the place of the files' own and changes nothing else.

"div": the loss or a vector is no longer finite; a run that sits at chance has a figure. Every run
is a process of its own, `jobs` at a time; a finished one of the same flags is not run again. A
run that fails otherwise is reported when the others have ended, with exit status 1.
"""

import argparse
import fnmatch
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pcode.datasets import data_source
from pcode.tools.command import FORMATS, Parser, check_file, tool, write
from pcode.tools.reproduce_report import caption, draw, markdown, summarise
from pcode.tools.reproduce_runs import Setting, is_rehearsal, run_all
from pcode.tools.reproduce_tables import TABLES, Cell, Table
from pcode.utils.errors import INTERRUPTED, UserError

FAILED = 1  # the exit status where a run failed


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m pcode.tools.reproduce", description=__doc__)
    parser.add_argument("table", choices=tuple(TABLES))
    parser.add_argument(
        "--cells", default="*", help="patterns of names of configuration files [all]"
    )
    parser.add_argument("--data", help="data set instead of the paper's; digits: a rehearsal")
    parser.add_argument("--epochs", type=int, help="of each run [the files', or the rehearsal's]")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each cell [3]")
    parser.add_argument("--jobs", type=int, help="runs at a time [1, in a rehearsal all cores]")
    parser.add_argument("--folder", type=Path, help="of the runs [data/TABLE]")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    parser.add_argument("--picture", type=Path, help=f"file to draw into ({', '.join(FORMATS)})")
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    parsed = parser.parse_args(arguments)
    for name in ("epochs", "seeds", "jobs"):
        if (value := getattr(parsed, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
    if parsed.data is not None:
        data_source(parsed.data)
    for name in ("markdown", "picture", "output"):
        check_file(name, getattr(parsed, name), FORMATS if name == "picture" else ())
    if parsed.folder is None:
        parsed.folder = Path("data", parsed.table)
    if parsed.folder.exists() and not parsed.folder.is_dir():
        raise UserError(f"--folder {parsed.folder}: is no folder")
    return parsed


def _select(table: Table, patterns: str) -> list[Cell]:
    """The cells whose names match one of the patterns."""
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


def _to_json(setting: Setting, cells: pd.DataFrame, runs: pd.DataFrame) -> str:
    figures = runs[runs["failure"].isna()].replace({"figure": {math.nan: None}})
    content = {
        "table": setting.table.name,
        "runs": caption(setting, cells),
        "seeds": list(setting.seeds),
        "cells": [
            {
                "cell": cell.name,
                "paper": cell.paper,
                f"test_{cell.metric}": list(figures["figure"][figures["cell"] == cell.name]),
            }
            for cell in cells.itertuples()
        ],
        "failures": list(runs["failure"].dropna()),
    }
    return json.dumps(content, indent=1) + "\n"


def _run(options: argparse.Namespace) -> list[str]:
    """Run a table; return a line for each run that failed."""
    table = TABLES[options.table]
    selected = _select(table, options.cells)
    seeds = range(1, options.seeds + 1)
    setting = Setting(table, options.data, options.epochs, seeds, options.folder)
    jobs = options.jobs or ((os.cpu_count() or 1) if is_rehearsal(options.data) else 1)
    runs = run_all(setting, selected, jobs)
    cells = summarise(table, runs)
    text = markdown(setting, cells)
    print(text, end="")
    write(options.markdown, text)
    write(options.output, _to_json(setting, cells, runs))
    if options.picture is not None:
        draw(setting, cells, options.picture)
    return list(runs["failure"].dropna())


@tool("reproduce")
def main(arguments: Sequence[str]) -> int:
    """Run a table; return 1 where a run failed, 130 for Ctrl-C."""
    try:
        failures = _run(_parse(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    for failure in failures:
        print(f"reproduce: error: {failure}", file=sys.stderr)
    return FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
