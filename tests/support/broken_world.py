"""Cases of which some do not hold, for two ranks; see test_worlds."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pcode import mpi_backend
from tests.support.cases import LIMIT, Checks, go_through

LIMIT_SECONDS = 2.0


@contextmanager
def case(*checks: str) -> Iterator[Checks]:
    """Some of the checks below."""
    mpi_backend.init_process_group(LIMIT)
    yield {name: globals()[name] for name in checks}
    dist.destroy_process_group()


def holds() -> None:
    """On both."""
    dist.barrier()


def fails_on_rank_1() -> None:
    """By an assertion."""
    assert dist.get_rank() == 0


def raises_nothing() -> None:
    """Where it should, on both."""
    with pytest.raises(ValueError, match="of this check"):
        dist.barrier()


def waits_for_rank_1() -> None:
    """Which does nothing."""
    dist.barrier()
    if dist.get_rank() == 1:
        signal.pause()  # ended with the job
    group = dist.group.WORLD
    assert group is not None
    group.set_timeout(timedelta(seconds=LIMIT_SECONDS))
    dist.recv(torch.zeros(1), 1)


if __name__ == "__main__":
    cases = {
        "first": partial(case, "fails_on_rank_1", "raises_nothing", "holds"),
        "second": partial(case, "holds", "waits_for_rank_1", "fails_on_rank_1"),
        "third": partial(case, "holds"),
    }
    go_through(Path(sys.argv[1]), cases)
