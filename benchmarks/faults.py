"""How many faults the tests find: those of faults.yaml, put into a copy of pcode one at a time.

    python benchmarks/faults.py [--check] [--only IDS] [--again] [--slow] [--limit_seconds 3600]
        [--output FILE.json] [--markdown FILE.md]

For each fault the nearest tests are run (the folder that mirrors its area), where these pass the
whole default tier, and where that passes too, with --slow, the slow tier; on two processes, each
until the first failure, which ends it. A run that takes longer than the limit has found the fault
as well. What the unchanged code fails would be found in every fault: before a tier's first fault it
is run on that, and has to pass. A test that fails now and then finds what it has nothing to do
with: the table names the first test that failed.

The checkout is not touched, and what is kept is written after each fault. With the --output of an
earlier run it goes on there: faults that were found, and tiers that found nothing, are not run
again but for --again, as after a change of the code or of the tests.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fault_list import NEAREST, ROOT, Fault, mistakes, read_faults
from faulty_copy import Copy, copy_of
from harness import keep, machine
from started import end_in_good_order

TIERS = ("nearest", "default", "slow")


class FailingError(Exception):
    """Tests that fail without a fault."""


@dataclass
class Row:
    """What became of one fault.

    Attributes:
        seconds: of each tier that was run.
        found_by: the tier that found it; None: none so far.
        first: the first test that failed, or what else told of it.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    found_by: str | None = None
    first: str | None = None

    def left(self, tiers: Sequence[str]) -> list[str]:
        """Of these tiers, those that are still to be run."""
        return [tier for tier in tiers if self.found_by is None and tier not in self.seconds]


@dataclass
class Kept:
    """What has been found out so far, by an earlier run with this output too.

    Args:
        faults: all of the list.
        output, markdown: the files in which it is kept, if any.

    Attributes:
        unchanged: seconds of the tests that pass on the unchanged code, by what selects them.
        rows: by the fault's id.
    """

    faults: Sequence[Fault]
    output: Path | None
    markdown: Path | None
    unchanged: dict[str, float] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.output is None or not self.output.exists():
            return
        found: dict[str, Any] = json.loads(self.output.read_text(encoding="utf-8"))
        self.unchanged = found["unchanged"]
        self.rows = {
            told["id"]: Row(told["seconds"], told["found_by"], told["first"])
            for told in found["faults"]
        }

    def write(self) -> None:
        told = [
            {"id": fault.id, "area": fault.area, "kind": fault.kind, **asdict(self.rows[fault.id])}
            for fault in self.faults
            if fault.id in self.rows
        ]
        keep(self.output, {"unchanged": self.unchanged, "faults": told})
        if self.markdown is not None:
            on = machine()
            head = f"{on['date']}, {on['processor']}, {on['cores']} cores; `{on['command']}`."
            self.markdown.write_text("\n".join([head, "", *self.tables()]) + "\n", encoding="utf-8")

    def tables(self) -> list[str]:
        return [*summary(self.faults, self.rows), "", *table(self.faults, self.rows)]


def selection(tier: str, fault: Fault) -> list[str]:
    """pytest's arguments for a tier."""
    return {"nearest": [NEAREST[fault.area]], "default": [], "slow": ["-m", "slow"]}[tier]


def check_unchanged(copy: Copy, selected: Sequence[str], limit_seconds: float, kept: Kept) -> None:
    """Run tests without a fault, unless that was done.

    Raises:
        FailingError: one fails.
    """
    name = " ".join(selected) or "default"
    if name in kept.unchanged:
        return
    tested = copy.test(selected, limit_seconds)
    if tested.failure is not None:
        raise FailingError(f"without a fault, {name}: {tested.failure}")
    kept.unchanged[name] = tested.seconds
    kept.write()
    print(f"without a fault, {name}: {tested.seconds:.0f} s", flush=True)


def try_fault(
    fault: Fault, tiers: Sequence[str], copy: Copy, limit_seconds: float, kept: Kept
) -> Row:
    """Put a fault in and run these tiers, until one finds it."""
    row = kept.rows.get(fault.id, Row())
    for tier in tiers:
        selected = selection(tier, fault)
        check_unchanged(copy, selected, limit_seconds, kept)
        with copy.holding(fault):
            tested = copy.test(selected, limit_seconds)
        row.seconds[tier] = tested.seconds
        if tested.failure is not None:
            row.found_by, row.first = tier, tested.failure
            break
    return row


def summary(faults: Sequence[Fault], rows: dict[str, Row]) -> list[str]:
    """How many were found, a line for each area and one for all."""
    lines = [
        f"| area | faults tried | found by {' | '.join(TIERS)} | not found |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for area in [*NEAREST, "all"]:
        tried = [
            rows[fault.id] for fault in faults if fault.id in rows and area in (fault.area, "all")
        ]
        by = [sum(row.found_by == tier for row in tried) for tier in (*TIERS, None)]
        if tried:
            lines.append(f"| {' | '.join(map(str, [area, len(tried), *by]))} |")
    return lines


def table(faults: Sequence[Fault], rows: dict[str, Row]) -> list[str]:
    """A line for each fault that was tried."""
    lines = [
        "| fault | kind | what it breaks | found by | first to fail | s |",
        "|---|---|---|---|---|---:|",
    ]
    for fault in faults:
        if (row := rows.get(fault.id)) is None:
            continue
        found = row.found_by or f"not found by {', '.join(row.seconds)}"
        first = "" if row.first is None else f"`{row.first}`".replace("|", "\\|")
        cells = [f"{fault.id} ({fault.file})", fault.kind, fault.breaks, found, first]
        lines.append(f"| {' | '.join(cells)} | {sum(row.seconds.values()):.0f} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="only whether all faults apply")
    parser.add_argument("--only", help="ids of faults, separated by commas")
    parser.add_argument("--again", action="store_true", help="also what is in --output already")
    parser.add_argument("--slow", action="store_true", help="the slow tier as well")
    parser.add_argument("--limit_seconds", type=float, default=3600.0, help="of each pytest")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    faults = read_faults()
    if wrong := list(mistakes(faults)):
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    chosen = [fault.id for fault in faults]
    if arguments.only is not None:
        chosen = arguments.only.split(",")
        if unknown := set(chosen) - {fault.id for fault in faults}:
            parser.error(f"--only: no fault is called {', '.join(sorted(unknown))}")
    if arguments.check:
        print(f"{len(faults)} faults apply")
        return 0
    end_in_good_order()
    kept = Kept(faults, arguments.output, arguments.markdown)
    if arguments.again:
        kept.unchanged = {}
        kept.rows = {name: row for name, row in kept.rows.items() if name not in chosen}
    tiers = TIERS if arguments.slow else TIERS[:-1]
    with copy_of(ROOT) as copy:
        for fault in faults:
            left = kept.rows.get(fault.id, Row()).left(tiers)
            if fault.id not in chosen or not left:
                continue
            try:
                row = try_fault(fault, left, copy, arguments.limit_seconds, kept)
            except FailingError as error:
                print(error, file=sys.stderr)
                return 1
            kept.rows[fault.id] = row
            found = "not found" if row.found_by is None else f"{row.found_by}: {row.first}"
            print(f"{fault.id}: {found}, {sum(row.seconds.values()):.0f} s", flush=True)
            kept.write()
    print(*kept.tables(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
