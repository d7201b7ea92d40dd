"""The table of benchmarks/gpu_check.sh, of reports that no GPU has written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpu_report import LEAST_SHARES, MOST_LAUNCHES, main
from tests.support.programs import ROOT

BENCHMARKS = ROOT / "benchmarks"
TESTS = """<testsuites><testsuite tests="9" failures="{}" errors="0" skipped="{}">
<testcase name="one"/>{}</testsuite></testsuites>"""
FAILED = '<testcase name="two"><failure/></testcase>'
SIGN = "sign: encode"
CALLS = [f"{label}: {call}" for label in MOST_LAUNCHES for call in ("encode", "accumulate")]
STEP = {"median": 1.04, "lower_quartile": 1.03, "upper_quartile": 1.05}
SLOW = {**STEP, "median": 1.06}


def times(seconds: list[float], num_launches: int = 1) -> dict[str, Any]:
    return {"seconds": seconds, "num_launches": num_launches, "aside_bytes": 8}


# Each kernel is as fast as the copy and one launch; a step keeps its bound.
KERNELS = {name: times([1.0]) for name in ("copy", *CALLS)}
STEPS = {"plain": STEP, "choco": STEP}


def write_reports(
    folder: Path, kernels: dict[str, Any], steps: dict[str, Any], *, skipped: int = 2
) -> Path:
    """Write what the parts of a check leave, and say that all ended well."""
    (folder / "steps.xml").write_text(TESTS.format(0, skipped, ""))
    moved = dict.fromkeys(kernels, 100)
    figures = {"times": kernels, "num_bytes": moved, "moved_bytes": moved}
    (folder / "kernels.json").write_text(json.dumps(figures))
    (folder / "resnet50.json").write_text(json.dumps({"ratios": steps}))
    parts = folder / "parts"
    parts.write_text("steps 0 3\nkernels 0 4\nresnet50 0 5\n")
    return parts


def broken(folder: Path) -> dict[str, str]:
    """What does not hold, and what was found."""
    rows = [line.split(" | ") for line in (folder / "table.md").read_text().splitlines()]
    return {row[0][2:]: row[1] for row in rows if "**no**" in row[-1]}


def without(figures: dict[str, Any], name: str) -> dict[str, Any]:
    return {each: figure for each, figure in figures.items() if each != name}


@pytest.mark.parametrize(
    ("kernels", "steps", "expected"),
    [
        (KERNELS | {SIGN: times([1.2, 1.0, 9.0])}, STEPS, {}),
        (
            KERNELS | {SIGN: times([2.0])},
            STEPS,
            {f"{SIGN}, of a copy's bandwidth": "0.50, 1 launches, 0.0 MB aside"},
        ),
        (
            KERNELS | {SIGN: times([1.0], 3)},
            STEPS,
            {"sign: launches of a step besides its exchange": "5"},
        ),
        (
            KERNELS | {"top-k .9: encode": times([1.0], 0)},
            STEPS,
            {"top-k .9: launches of a step besides its exchange": "not measured"},
        ),
        (
            without(KERNELS, SIGN),
            STEPS,
            {
                f"{SIGN}, of a copy's bandwidth": "not measured",
                "sign: launches of a step besides its exchange": "not measured",
            },
        ),
        (
            KERNELS,
            {"plain": STEP, "choco": SLOW},
            {"ResNet-50, resnet50, choco: step, of a plain one": "1.060 (1.030 to 1.050)"},
        ),
        (
            KERNELS,
            {"plain": STEP},
            {"ResNet-50, resnet50, choco: step, of a plain one": "not measured"},
        ),
    ],
)
def test_what_does_not_hold_or_is_missing_is_marked(
    tmp_path: Path, kernels: dict[str, Any], steps: dict[str, Any], expected: dict[str, str]
) -> None:
    assert main(tmp_path, write_reports(tmp_path, kernels, steps)) == bool(expected)
    assert broken(tmp_path) == expected


def test_a_test_that_fails_is_named(tmp_path: Path) -> None:
    parts = write_reports(tmp_path, KERNELS, STEPS)
    (tmp_path / "steps.xml").write_text(TESTS.format(1, 2, FAILED))
    assert main(tmp_path, parts) == 1
    assert broken(tmp_path) == {"tests: steps": "1 of 9 failed, 2 skipped: two"}


def test_tests_that_are_all_skipped_are_a_failure_on_a_gpu_alone(tmp_path: Path) -> None:
    parts = write_reports(tmp_path, KERNELS, STEPS, skipped=9)
    assert main(tmp_path, parts) == 1
    assert broken(tmp_path) == {"tests: steps": "0 of 9 failed, 9 skipped"}
    parts.write_text("steps 0 3\nranks left-out 1\n")
    assert main(tmp_path, parts) == 0
    table = (tmp_path / "table.md").read_text()
    assert "| tests: steps | 0 of 9 failed, 9 skipped | some run, none fails |  |" in table
    assert "left out: there is no GPU" in table


def test_a_part_that_fails_is_marked(tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("steps 124 50\n")
    assert main(tmp_path, tmp_path / "parts") == 1


def test_the_bounds_are_of_what_is_measured() -> None:
    pytest.importorskip("triton", reason="there is no Triton for this machine")
    from gpu_kernels import CASES  # noqa: PLC0415

    assert {label for label, _, _ in CASES} == set(MOST_LAUNCHES)
    assert set(LEAST_SHARES) <= set(CALLS)


@pytest.mark.parametrize("name", ["gpu_kernels.py", "gpu_simulation.py", "gpu_steps.py"])
def test_a_benchmark_starts_where_pcode_is_not_installed(name: str) -> None:
    """Without site's files an editable install is not found; neither is what lies here."""
    packages = [each for each in sys.path if Path(each).resolve() not in (ROOT, BENCHMARKS)]
    done = subprocess.run(
        [sys.executable, "-S", str(BENCHMARKS / name), "--help"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(packages)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
