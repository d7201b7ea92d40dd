"""Runs side by side: a table of their figures, and pictures for print.

    python -m pcode.tools.results RUN... [--markdown FILE.md] [--csv FILE.csv]
        [--pictures FOLDER] [--format png|pdf|svg]

RUN is a run's folder or one above several. Runs that differ only in --manual_seed make one row and
one curve: mean ± standard deviation over seeds, of the runs that finished if any has. Where the
same seed ran twice, the later that finished counts. The CSV has a row for every run. Each data set
has a table, and, where there are several, a folder of pictures of its own. A cross ends the curve
of runs that diverged; what was not recorded is not drawn.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pcode.tools.command import FORMATS, Parser, call, check_file
from pcode.tools.results_groups import Group, group_runs
from pcode.tools.results_picture import draw_all
from pcode.tools.results_runs import find_runs
from pcode.tools.results_table import aligned, csv_text, markdown, table
from pcode.utils.errors import UserError


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = Parser(
        prog="python -m pcode.tools.results",
        description=description,
        epilog=details.partition("\n\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="folder of run(s)")
    parser.add_argument("--markdown", metavar="FILE", type=Path, help="file for the table")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="file for every run's figures")
    parser.add_argument("--pictures", metavar="FOLDER", type=Path, help="folder to draw into")
    kinds = [suffix[1:] for suffix in FORMATS]
    parser.add_argument("--format", choices=kinds, help="of the pictures [png]")
    options = parser.parse_args(arguments)
    check_file("markdown", options.markdown)
    check_file("csv", options.csv)
    _check_folder(options.pictures)
    if options.format is not None and options.pictures is None:
        raise UserError(f"--format {options.format}: of pictures; add --pictures FOLDER")
    return options


def _check_folder(folder: Path | None) -> None:
    """Refuse a folder that could not be made or written to at the end."""
    if folder is None:
        return
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"--pictures {folder}: cannot be written; name a folder")


def _sections(by_data: Mapping[str, list[str]], mark: str) -> str:
    """The lines of each data set, under its name where there are several."""
    if len(by_data) == 1:
        return "\n".join(next(iter(by_data.values()))) + "\n"
    parts = ["\n".join((f"{mark}{data}", "", *lines)) for data, lines in by_data.items()]
    return "\n\n".join(parts) + "\n"


def _draw(by_data: Mapping[str, Sequence[Group]], folder: Path, suffix: str) -> None:
    for data, groups in by_data.items():
        place = folder / data if len(by_data) > 1 else folder
        place.mkdir(parents=True, exist_ok=True)
        written, empty = draw_all(groups, place, suffix)
        for path in written:
            print(path)
        if empty:
            words = f"nothing was recorded above 0 for {', '.join(empty)} ({data})"
            print(f"results: {words}", file=sys.stderr)


def _run(arguments: Sequence[str]) -> None:
    options = _parse(arguments)
    by_data = group_runs(find_runs(options.runs))
    for group in (group for groups in by_data.values() for group in groups):
        for run in group.runs:
            if run not in group.last_of_each_seed:
                words = f"another run with its flags and --manual_seed {run.seed} counts"
                print(f"results: warning: {run.folder}: {words}", file=sys.stderr)
    tables = {data: table(groups) for data, groups in by_data.items()}
    print(_sections({data: aligned(rows) for data, rows in tables.items()}, ""), end="", flush=True)
    if options.markdown is not None:
        lines = {data: markdown(rows) for data, rows in tables.items()}
        options.markdown.write_text(_sections(lines, "## "), encoding="utf-8")
    if options.csv is not None:
        options.csv.write_text(csv_text(by_data), encoding="utf-8")
    if options.pictures is not None:
        _draw(by_data, options.pictures, options.format or "png")


def main(arguments: Sequence[str]) -> int:
    """Show runs; the exit status, 2 for a mistake."""
    return call("results", _run, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
