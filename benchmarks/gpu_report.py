"""The table of gpu_check.sh: what this project says of a GPU, what was found, and the bound.

    python benchmarks/gpu_report.py FOLDER PARTS

FOLDER holds the reports of the tests and the figures of the benchmarks, PARTS a line for each part
of the check: its name, exit status (LEFT_OUT where it needs a GPU) and seconds. The table goes to
stdout and to FOLDER/table.md. Ends with status 1 where a part failed or a bound does not hold.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

LEFT_OUT = "left-out"  # in the place of a status: there is no GPU

# Of the bandwidth that a copy reaches, over the bytes that have to be moved.
LEAST_SHARES = {
    "none: encode": 0.8,
    "none: accumulate": 0.8,
    "sign: encode": 0.8,
    "sign: accumulate": 0.8,
    "qsgd 4: encode": 0.5,
    "qsgd 8: encode": 0.5,
    "qsgd 8: accumulate": 0.5,
    "top-k .99: encode": 0.35,
}
# Of the same without communication.
MOST_OF_A_STEP, MOST_OF_A_SIMULATION = 1.05, 1.1


class Row(NamedTuple):
    """A promise: what was found, the bound, and whether it holds; None: there is no bound."""

    promise: str
    found: str
    bound: str
    holds: bool | None

    def __str__(self) -> str:
        mark = {True: "yes", False: "**no**", None: ""}[self.holds]
        return f"| {self.promise} | {self.found} | {self.bound} | {mark} |"


def of_tests(name: str, report: Path) -> Row:
    """Count the tests of a part."""
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).iter("testsuite"):
        for kind in counts:
            counts[kind] += int(suite.get(kind, 0))
    failed = counts["failures"] + counts["errors"]
    found = f"{failed} of {counts['tests']} failed, {counts['skipped']} skipped"
    return Row(f"tests: {name}", found, "none fails", failed == 0)


def of_kernels(figures: dict[str, Any]) -> Iterator[Row]:
    """Compare the kernels with a copy."""
    medians = {
        name: statistics.median(times["seconds"]) for name, times in figures["times"].items()
    }
    bandwidth = figures["num_bytes"]["copy"] / medians["copy"]
    yield Row("a copy", f"{bandwidth / 1e9:,.0f} GB/s", "", None)
    for name, moved in figures["moved_bytes"].items():
        share, least = moved / medians[name] / bandwidth, LEAST_SHARES.get(name)
        bound = "" if least is None else f"{least:g} or more"
        holds = None if least is None else share >= least
        times = figures["times"][name]
        found = f"{share:.2f}, {times['num_launches']} launches"
        found += f", {times['aside_bytes'] / 1e6:.1f} MB aside"
        yield Row(f"{name}, of a copy's bandwidth", found, bound, holds)


def of_ratio(promise: str, ratio: dict[str, float], most: float | None) -> Row:
    """Compare a step with another."""
    found = (
        f"{ratio['median']:.3f} ({ratio['lower_quartile']:.3f} to {ratio['upper_quartile']:.3f})"
    )
    bound = "" if most is None else f"{most:g} or less"
    return Row(promise, found, bound, None if most is None else ratio["median"] <= most)


def rows_of(name: str, folder: Path) -> Iterator[Row]:
    """Yield the rows of a part that came to its end."""
    if (report := folder / f"{name}.xml").is_file():
        yield of_tests(name, report)
    if not (file := folder / f"{name}.json").is_file():
        return
    content = json.loads(file.read_text(encoding="utf-8"))
    if name == "kernels":
        yield from of_kernels(content)
    elif name == "simulation":
        for kind, found in content["figures"].items():
            promise = f"8 ResNet-20 of one process, {kind}: step, of 8 plain ones"
            yield of_ratio(promise, found["ratio"], MOST_OF_A_SIMULATION)
    else:
        for kind, ratio in content["ratios"].items():
            most = MOST_OF_A_STEP if (name, kind) == ("resnet50", "choco") else None
            yield of_ratio(f"ResNet-50, {name}, {kind}: step, of a plain one", ratio, most)


def main(folder: Path, parts: Path) -> int:
    rows = []
    for line in parts.read_text(encoding="utf-8").splitlines():
        name, status, seconds = line.split()
        is_left_out = status == LEFT_OUT
        found = "left out: there is no GPU" if is_left_out else f"status {status}, {seconds} s"
        holds = None if is_left_out else status == "0"
        rows += [Row(f"part: {name}", found, "ends well", holds), *rows_of(name, folder)]
    head = ["| what | found | bound | holds |", "|---|---|---|---|"]
    table = "\n".join([*head, *map(str, rows)])
    (folder / "table.md").write_text(f"{table}\n", encoding="utf-8")
    print(table)
    return int(any(row.holds is False for row in rows))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
