"""The list of faults that benchmarks/faults.py puts into pcode: each still applies."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FAULTS: list[dict[str, str]] = yaml.safe_load(
    (ROOT / "benchmarks" / "faults.yaml").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault["id"]))
def test_applies(fault: dict[str, str]) -> None:
    source = (ROOT / fault["file"]).read_text(encoding="utf-8")
    assert source.count(fault["old"]) == 1
    assert fault["new"] != fault["old"]
    compile(source.replace(fault["old"], fault["new"]), fault["file"], "exec")


def test_names_are_different() -> None:
    names = [fault["id"] for fault in FAULTS]
    assert len(set(names)) == len(names)
