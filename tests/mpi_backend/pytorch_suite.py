"""PyTorch's own suite for backends, in one world.

    mpirun -n 3 python -m tests.mpi_backend.pytorch_suite BACKEND FOLDER [OPTIONS]

FOLDER/RANK.json has what became of each test: "passed", why it was skipped, or a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import traceback
import unittest
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pcode import mpi_backend
from pcode.launch.environment import detect

PASSED, SKIPPED = "passed", "skipped"
LIMIT_SECONDS = 60.0


def outcome(test: Callable[[], None]) -> str:
    """Run a test on this rank."""
    torch.manual_seed(0)
    try:
        test()
    except unittest.SkipTest as reason:
        return f"{SKIPPED}: {reason}"
    except SystemExit as end:  # how its decorators skip
        return f"{SKIPPED}: status {end.code}"
    except Exception:
        return traceback.format_exc()
    return PASSED


def main() -> None:
    """Run one rank."""
    parser = argparse.ArgumentParser()
    parser.add_argument("backend")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--also", nargs="*", default=[], help="tests not meant for the backend")
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--only", nargs="*", default=[])
    given = parser.parse_args()
    backend, folder = given.backend, given.folder
    place = detect()
    assert place is not None, "to be started by mpirun"
    shared = folder / "shared"
    for part in ("barrier", "test_dir", "init_dir"):
        (shared / part).mkdir(parents=True, exist_ok=True)
    store = f"file://{folder / 'store'}"
    os.environ |= {
        "BACKEND": backend,
        "INIT_METHOD": store,
        "MASTER_ADDR": "127.0.0.1",
        "TEMP_DIR": str(shared),
        "WORLD_SIZE": str(place.num_ranks),
    }
    if backend == "mpi":
        mpi_backend.register()
    # It reads these variables.
    from torch.testing._internal.distributed import distributed_test as suite  # noqa: PLC0415

    class Case(suite.TestDistBackend, suite.DistributedTest._DistTestBase):
        """The suite, as the ranks that are here run it."""

    chosen = set(given.also)
    for name in unittest.TestLoader().getTestCaseNames(Case):
        if not getattr(getattr(Case, name), "__unittest_skip__", False):
            chosen.add(name)
    outcomes, options = {}, dict[str, Any]()
    for name in given.only or sorted(chosen - set(given.without)):
        case = Case(name)
        case.rank, case.file_name = place.rank, str(folder / name)
        seconds = suite.CUSTOM_PG_TIMEOUT.get(name, LIMIT_SECONDS)
        if backend != "mpi":
            options = {"init_method": f"file://{folder / name}.store"}
            options |= {"rank": place.rank, "world_size": place.num_ranks}
        dist.init_process_group(backend, timeout=timedelta(seconds=seconds), **options)
        case._barrier()  # type: ignore[no-untyped-call]
        outcomes[name] = outcome(getattr(case, name))
        (folder / f"{place.rank}.json").write_text(json.dumps(outcomes), encoding="utf-8")
        case._barrier(timeout=LIMIT_SECONDS)  # type: ignore[no-untyped-call]
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
