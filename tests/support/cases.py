"""Cases that the ranks of one mpirun go through together, and notes of what came of each check.

To start processes costs far more than the checks do, so the ranks join, check and part again for
one case after another. A check that fails by an assertion is noted, and the next one follows. Any
other exception, such as a time limit that has passed, may have left the ranks out of step: it is
noted and ends all ranks, and what would have followed is not run (see worlds).
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import pytest

from pcode.communication.connect import abort
from pcode.launch.environment import derived_port, detect

JOINING, PARTING = "joining", "parting"  # what a rank is at before its checks and after them
FAILURES = (AssertionError, pytest.fail.Exception)  # the latter is of pytest.raises
# How long ranks wait for each other: far longer than any check takes on a busy machine, and short
# enough for a deadlock to be noted before the whole start runs out of time.
LIMIT = timedelta(seconds=60)

Checks = Mapping[str, Callable[[], None]]
Case = Callable[[], AbstractContextManager[Checks]]  # joins the ranks, and parts them at the end


def failure(check: Callable[[], None]) -> str:
    """The traceback of a check that does not hold, or "" of one that does."""
    try:
        check()
    except FAILURES:
        return traceback.format_exc()
    return ""


def go_through(folder: Path, cases: Mapping[str, Case]) -> None:
    """Go through the cases on one of the ranks, all of which do.

    Args:
        folder: of this world alone. `folder/RANK.notes` has two lines of JSON for each check: its
            case and name when it begins, and both with its failure when it has ended.
        cases: by name.
    """
    place = detect()
    assert place is not None, "to be started by mpirun"
    port = derived_port(os.environ["PMIX_NAMESPACE"])
    under_way: tuple[str, str] = ("", "")
    with (folder / f"{place.rank}.notes").open("w", encoding="utf-8", buffering=1) as notes:

        def begin(case: str, check: str) -> None:
            nonlocal under_way
            under_way = (case, check)
            notes.write(json.dumps(under_way) + "\n")

        def end(failed: str) -> None:
            notes.write(json.dumps([*under_way, failed]) + "\n")

        try:
            for number, (name, case) in enumerate(cases.items()):
                begin(name, JOINING)
                # Each has its own port: torch keeps the last one's store for a while.
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port + number))
                with case() as checks:
                    end("")
                    for check, function in checks.items():
                        begin(name, check)
                        end(failure(function))
                    begin(name, PARTING)
                end("")
        except BaseException:  # whatever it is, the others may wait for this rank
            end(traceback.format_exc())
            abort(f"rank {place.rank}: {', '.join(under_way)}: {traceback.format_exc()}")
