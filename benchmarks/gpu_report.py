"""The table of gpu_check.sh: what this project says of a GPU, what was found, and the bound.

    python benchmarks/gpu_report.py FOLDER PARTS

FOLDER holds the reports of the tests and the figures of the benchmarks, PARTS a line for each part
of the check: its name, exit status (LEFT_OUT where it needs a GPU) and seconds. The table goes to
stdout and to FOLDER/table.md. Ends with status 1 where a part failed or a bound does not hold; it
does not where its figure is missing among those of its part, or a GPU had no test to run.
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
# Of a step on a ring besides its exchange: an encode, an accumulate and the local step. This is not
# measured; it is one launch, as all tensors of ResNet-50 begin at multiples of four entries.
LOCAL_STEP_LAUNCHES = 1
MOST_LAUNCHES = {
    "none": 3,
    "sign": 4,
    "qsgd 4": 5,
    "qsgd 8": 5,
    "qsgd 16": 5,
    "top-k .5": 19,
    "top-k .9": 19,
    "top-k .99": 19,
    "random-k .5": 19,
    "random-k .99": 19,
}
# Of the same without communication: by part and kind of step.
MOST_OF_A_STEP = {
    ("resnet50", "choco"): 1.05,
    ("simulation", "simulated"): 1.1,
    ("simulation", "compiled"): 1.1,
}
MISSING = "not measured"
# Of the tests that fail, those that are named.
MOST_NAMES = 5


class Row(NamedTuple):
    """A promise: what was found, the bound, and whether it holds; None: there is no bound."""

    promise: str
    found: str
    bound: str
    holds: bool | None

    def __str__(self) -> str:
        mark = {True: "yes", False: "**no**", None: ""}[self.holds]
        return f"| {self.promise} | {self.found} | {self.bound} | {mark} |"


def of_tests(name: str, report: Path, has_gpu: bool) -> Row:
    """Count the tests of a part, and name those that fail."""
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    content = ElementTree.parse(report)
    for suite in content.iter("testsuite"):
        for kind in counts:
            counts[kind] += int(suite.get(kind, 0))
    failed, ran = counts["failures"] + counts["errors"], counts["tests"] - counts["skipped"]
    found = f"{failed} of {counts['tests']} failed, {counts['skipped']} skipped"
    cases = [case for kind in ("failure", "error") for case in content.findall(f".//{kind}/..")]
    if cases:
        found += f": {', '.join(case.get('name', '') for case in cases[:MOST_NAMES])}"
    holds = failed == 0 < ran if has_gpu or ran else None
    return Row(f"tests: {name}", found, "some run, none fails", holds)


def of_kernels(figures: dict[str, Any]) -> Iterator[Row]:
    """Compare the kernels with a copy."""
    medians = {
        name: statistics.median(times["seconds"]) for name, times in figures["times"].items()
    }
    bandwidth = figures["num_bytes"]["copy"] / medians["copy"]
    yield Row("a copy", f"{bandwidth / 1e9:,.0f} GB/s", "", None)
    for name in dict.fromkeys([*medians, *LEAST_SHARES]):
        promise, least = f"{name}, of a copy's bandwidth", LEAST_SHARES.get(name)
        bound = "" if least is None else f"{least:g} or more"
        if name not in medians:
            yield Row(promise, MISSING, bound, False)
            continue
        share = figures["moved_bytes"][name] / medians[name] / bandwidth
        times = figures["times"][name]
        found = f"{share:.2f}, {times['num_launches']} launches"
        found += f", {times['aside_bytes'] / 1e6:.1f} MB aside"
        yield Row(promise, found, bound, None if least is None else share >= least)
    yield from of_launches(figures["times"])


def of_launches(times: dict[str, Any]) -> Iterator[Row]:
    """Count the launches of a step; a call that has none was not seen by the profiler."""
    for label, most in MOST_LAUNCHES.items():
        calls = [times.get(f"{label}: {call}", {}) for call in ("encode", "accumulate")]
        counts = [call.get("num_launches", 0) for call in calls]
        found = sum(counts, LOCAL_STEP_LAUNCHES)
        yield Row(
            f"{label}: launches of a step besides its exchange",
            str(found) if all(counts) else MISSING,
            f"{most} or less",
            all(counts) and found <= most,
        )


def of_steps(name: str, promise: str, ratios: dict[str, dict[str, float]]) -> Iterator[Row]:
    """Compare the steps of a part with another."""
    bounds = {kind: most for (part, kind), most in MOST_OF_A_STEP.items() if part == name}
    for kind in dict.fromkeys([*ratios, *bounds]):
        ratio, most = ratios.get(kind), bounds.get(kind)
        bound = "" if most is None else f"{most:g} or less"
        if ratio is None:
            yield Row(promise.format(kind), MISSING, bound, False)
            continue
        median, quartiles = ratio["median"], (ratio["lower_quartile"], ratio["upper_quartile"])
        found = "{:.3f} ({:.3f} to {:.3f})".format(median, *quartiles)
        yield Row(promise.format(kind), found, bound, None if most is None else median <= most)


def rows_of(name: str, folder: Path, has_gpu: bool) -> Iterator[Row]:
    """Yield the rows of a part that came to its end."""
    if (report := folder / f"{name}.xml").is_file():
        yield of_tests(name, report, has_gpu)
    if not (file := folder / f"{name}.json").is_file():
        return
    content = json.loads(file.read_text(encoding="utf-8"))
    if name == "kernels":
        yield from of_kernels(content)
    elif name == "simulation":
        ratios = {kind: found["ratio"] for kind, found in content["figures"].items()}
        yield from of_steps(name, "8 ResNet-20 of one process, {}: step, of 8 plain ones", ratios)
    else:
        promise = f"ResNet-50, {name}, {{}}: step, of a plain one"
        yield from of_steps(name, promise, content["ratios"])


def main(folder: Path, parts: Path) -> int:
    rows = []
    lines = [line.split() for line in parts.read_text(encoding="utf-8").splitlines()]
    has_gpu = all(status != LEFT_OUT for _, status, _ in lines)
    for name, status, seconds in lines:
        is_left_out = status == LEFT_OUT
        found = "left out: there is no GPU" if is_left_out else f"status {status}, {seconds} s"
        holds = None if is_left_out else status == "0"
        rows += [Row(f"part: {name}", found, "ends well", holds), *rows_of(name, folder, has_gpu)]
    head = ["| what | found | bound | holds |", "|---|---|---|---|"]
    table = "\n".join([*head, *map(str, rows)])
    (folder / "table.md").write_text(f"{table}\n", encoding="utf-8")
    print(table)
    return int(any(row.holds is False for row in rows))


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
