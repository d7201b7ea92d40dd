"""The list of faults that benchmarks/faults.py puts into pcode, and what it takes for a failure."""

from __future__ import annotations

from collections import Counter

import pytest

from fault_list import NEAREST, mistakes, read_faults
from faulty_copy import failure_in

FAULTS = read_faults()


def test_all_apply_and_there_are_forty_and_four_of_each_area() -> None:
    assert list(mistakes(FAULTS)) == []
    areas = Counter(fault.area for fault in FAULTS)
    assert areas.keys() == NEAREST.keys()
    assert min(areas.values()) >= 4
    assert len(FAULTS) >= 40


@pytest.mark.parametrize(
    ("output", "status", "failure"),
    [
        ("[gw0] [ 12%] PASSED tests/a.py::test_a \n", None, None),
        ("[gw0] [ 12%] FAILED tests/a.py::test_a[x - y] \n", None, "tests/a.py::test_a[x - y]"),
        ("[gw1] [100%] ERROR tests/a.py::test_a\n", 1, "tests/a.py::test_a"),
        ("FAILED tests/a.py::test_a[1] - assert 1\n1 failed in 2 s\n", 1, "tests/a.py::test_a[1]"),
        ("3 passed in 2 s\n", 0, None),
        ("no tests ran in 1 s\n", 5, None),
        ("ImportError: no pcode\n", 4, "status 4: ImportError: no pcode"),
        ("", -9, "status -9: nothing was printed"),
    ],
)
def test_a_failure_is_seen(output: str, status: int | None, failure: str | None) -> None:
    assert failure_in(output, status) == failure
