"""The table of benchmarks/gpu_check.sh, of reports that no GPU has written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kernels
from gpu_report import LEAST_SHARES, main

TESTS = '<testsuites><testsuite tests="9" failures="{}" errors="0" skipped="2"/></testsuites>'


def ratio(median: float) -> dict[str, float]:
    return {"median": median, "lower_quartile": median - 0.01, "upper_quartile": median + 0.01}


@pytest.mark.parametrize(
    ("failures", "encode_seconds", "step", "broken"),
    [
        (0, [1.2, 1.0, 9.0], 1.04, []),
        (1, [1.2, 1.0, 9.0], 1.04, ["tests: steps"]),
        (0, [2.0], 1.04, ["sign: encode, of a copy's bandwidth"]),
        (0, [1.2], 1.06, ["ResNet-50, resnet50, choco: step, of a plain one"]),
    ],
)
def test_what_does_not_hold_is_marked(
    tmp_path: Path, failures: int, encode_seconds: list[float], step: float, broken: list[str]
) -> None:
    (tmp_path / "steps.xml").write_text(TESTS.format(failures))
    times = {"copy": [1.0], "sign: encode": encode_seconds}
    figures = {
        "times": {
            name: {"seconds": seconds, "num_launches": 2, "aside_bytes": 8}
            for name, seconds in times.items()
        },
        "num_bytes": {"copy": 100},
        "moved_bytes": {"copy": 100, "sign: encode": 100},
    }
    (tmp_path / "kernels.json").write_text(json.dumps(figures))
    ratios = {"plain": ratio(1.0), "choco": ratio(step)}
    (tmp_path / "resnet50.json").write_text(json.dumps({"ratios": ratios}))
    (tmp_path / "parts").write_text("steps 0 3\nkernels 0 4\nresnet50 0 5\nranks left-out 1\n")
    assert main(tmp_path, tmp_path / "parts") == bool(broken)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0][2:] for line in lines if "**no**" in line] == broken
    assert any("left out: there is no GPU" in line for line in lines)


def test_a_part_that_fails_is_marked(tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("steps 124 50\n")
    assert main(tmp_path, tmp_path / "parts") == 1


def test_the_bounds_are_of_what_is_measured() -> None:
    names = {case[0] for case in kernels.CASES}
    assert {name.partition(":")[0] for name in LEAST_SHARES} <= names
