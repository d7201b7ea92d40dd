"""What gloo passes of PyTorch's own suite for backends, the mpi backend passes too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mpi_backend.pytorch_suite import PASSED, SKIPPED
from tests.support.programs import run_mpi

NUM_RANKS = 3
# Of one world, with all its tests or with one.
LIMIT_SECONDS, SHORT_SECONDS = 360.0, 60.0
WORDING = "asserts the words of gloo's error"
LEFT_OUT = {
    "test_monitored_barrier_failure_order": WORDING,
    "test_monitored_barrier_gloo": WORDING,
    "test_monitored_barrier_gloo_rank_0_timeout": WORDING,
    "test_monitored_barrier_gloo_subgroup": WORDING,
    "test_monitored_barrier_wait_all_ranks": WORDING,
    "test_sparse_all_reduce_sum": "sparse tensors are refused",
}
# A rank does not come: the others of its world cannot go on to another test.
SILENT = {
    "test_barrier_timeout_full_group",
    "test_barrier_timeout_global",
    "test_barrier_timeout_group",
}


def outcomes(folder: Path, backend: str, *options: str) -> dict[str, str]:
    """What became of each test; for one that a rank has failed, what the first such rank says."""
    folder.mkdir()
    program = ["-m", "tests.mpi_backend.pytorch_suite", backend, str(folder), *options]
    run_mpi(NUM_RANKS, program, SHORT_SECONDS if "--only" in options else LIMIT_SECONDS)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(NUM_RANKS)]

    def together(name: str) -> str:
        said: list[str] = [rank.get(name, "not reached") for rank in ranks]
        return next((each for each in said if not each.startswith((PASSED, SKIPPED))), max(said))

    return {name: together(name) for name in ranks[0]}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_mpi_passes_what_gloo_passes(tmp_path: Path) -> None:
    """Also what the suite does not ask of mpi, and the events that profilers show."""
    pytest.importorskip("expecttest", reason="PyTorch's suite needs it")
    by_gloo = outcomes(tmp_path / "gloo", "gloo")
    assert by_gloo.keys() >= LEFT_OUT.keys() | SILENT
    expected = {name for name, said in by_gloo.items() if said == PASSED}
    assert len(expected) > 80
    without = LEFT_OUT.keys() | SILENT
    by_mpi = outcomes(
        tmp_path / "mpi", "mpi", "--also", *sorted(expected), "--without", *sorted(without)
    )
    for name in SILENT:
        by_mpi |= outcomes(tmp_path / name, "mpi", "--only", name)
    failed = {name: said for name, said in by_mpi.items() if not said.startswith((PASSED, SKIPPED))}
    assert not failed, next(iter(failed.items()))
    passed = {name for name, said in by_mpi.items() if said == PASSED}
    assert passed >= expected - LEFT_OUT.keys(), expected - LEFT_OUT.keys() - passed
    assert passed >= SILENT
    # What gloo does not have, and what takes 8 ranks of gloo, but 3 of mpi.
    assert passed >= {"test_all_to_all", "test_all_reduce_group_sum", "test_broadcast_group"}
