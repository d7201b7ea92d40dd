"""The networks that benchmarks/slow_network.py measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from slow_network import Scenario

FILES = sorted(Path(__file__).parents[2].glob("benchmarks/scenarios/*.yaml"))
HOSTS = {f"host-{number}" for number in range(1, 5)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_scenario_is_of_hosts_that_there_are(path: Path) -> None:
    scenario = Scenario(**yaml.safe_load(path.read_text(encoding="utf-8")))
    named = [*scenario.processors, *(name for ends in scenario.ways_mbit for name in ends.split())]
    assert set(named) <= HOSTS
