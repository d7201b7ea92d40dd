"""Runs side by side: a table of their figures, and pictures for print.

    python -m pcode.tools.results RUN... [--markdown FILE.md] [--csv FILE.csv]
        [--pictures FOLDER] [--format png|pdf|svg]

RUN is a run's folder or one above several. Runs that differ only in --manual_seed make one row and
one curve: mean ± standard deviation over seeds, of the runs that finished if any has. Where the
same seed ran twice, the later that finished counts. The CSV has a row for every run. Each data set
has a table, and, where there are several, a folder of pictures of its own. A cross ends the curve
of runs that diverged; what was not recorded is not drawn. A run that cannot be read is named in
a warning, and the exit status is 1.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from pcode.tools.command import FAILED, FORMATS, Parser, check_writable, say, tool, write
from pcode.tools.results_picture import draw_all
from pcode.tools.results_runs import find_runs
from pcode.tools.results_table import LEFT, csv_text, group_runs, groups_of, table
from pcode.utils.errors import UserError
from pcode.utils.files import file_name, printable
from pcode.utils.tables import aligned, escaped, markdown


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="python -m pcode.tools.results", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of run(s)")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="file for the table")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="file for every run's figures")
    parser.add_argument("--pictures", metavar="FOLDER", type=Path, help="folder to draw into")
    kinds = [suffix[1:] for suffix in FORMATS]
    parser.add_argument("--format", choices=kinds, help="of the pictures [png]")
    options = parser.parse_args(arguments)
    check_writable("markdown", options.markdown)
    check_writable("csv", options.csv)
    if (folder := options.pictures) is not None:
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"--pictures {folder}: cannot be written; name a folder")
    if options.format is not None and options.pictures is None:
        raise UserError(f"--format {options.format}: of pictures; add --pictures FOLDER")
    return options


def _sections(by_data: Mapping[str, list[str]]) -> str:
    """Join the lines of each data set, under a heading where there are several."""
    if len(by_data) == 1:
        return "\n".join(next(iter(by_data.values()))) + "\n"
    parts = ["\n".join((heading, "", *lines)) for heading, lines in by_data.items()]
    return "\n\n".join(parts) + "\n"


def _draw(by_data: Mapping[str, pd.DataFrame], folder: Path, suffix: str) -> None:
    for data, runs in by_data.items():
        place = folder / file_name(data) if len(by_data) > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        written, empty = draw_all(runs, place, suffix)
        for path in written:
            print(printable(str(path)))
        if empty:
            say(f"results: nothing was recorded above 0 for {', '.join(empty)} ({data})")


@tool("results")
def main(arguments: Sequence[str]) -> int:
    """Show runs; return 1 where one cannot be read."""
    options = _parse(arguments)
    unread: list[UserError] = []

    def report(error: UserError) -> None:
        unread.append(error)
        say(f"results: warning: {error}")

    by_data = group_runs(find_runs(options.runs, report))
    every = pd.concat([group for runs in by_data.values() for group in groups_of(runs)])
    for run in every[~every["is_last"]].itertuples():
        words = f"another run with its flags and --manual_seed {run.manual_seed} counts"
        say(f"results: warning: {run.folder}: {words}")
    tables = {data: table(runs) for data, runs in by_data.items()}
    shown = {data: aligned(rows, LEFT) for data, rows in tables.items()}
    print(_sections(shown), end="", flush=True)
    lines = {f"## {escaped(data)}": markdown(rows, LEFT) for data, rows in tables.items()}
    write(options.markdown, _sections(lines))
    write(options.csv, csv_text(every))
    if options.pictures is not None:
        _draw(by_data, options.pictures, options.format or "png")
    return FAILED if unread else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
