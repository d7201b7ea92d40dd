"""Which GPU and how many CPU threads a node gets."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping, Sequence

from pcode.errors import UserError


def repeat_world(world: Sequence[int], num_gpus: int) -> tuple[int, ...]:
    """The GPU id of each of the run's `num_gpus` GPUs: `world`, repeated cyclically when short.

    The published command gives 8 ids for 16 nodes.
    """
    return tuple(itertools.islice(itertools.cycle(world), num_gpus))


def world_notice(world: Sequence[int], num_gpus: int) -> str | None:
    """A line for the user where `world` has another length than the run has GPUs."""
    if len(world) == num_gpus:
        return None
    ids = ",".join(map(str, world))
    what = "repeated cyclically" if len(world) < num_gpus else f"the first {num_gpus} are used"
    return f"--world {ids}: {len(world)} ids for {num_gpus} GPUs; {what}"


def threads_per_node(
    num_threads: int | None, nodes_on_this_machine: int, environ: Mapping[str, str] = os.environ
) -> int:
    """CPU threads of a node: --num_threads, else OMP_NUM_THREADS, else its share of the cores.

    The cores are those that this process may use. A list in OMP_NUM_THREADS is one number for
    each level of nested parallelism: the first counts.

    Raises:
        UserError: OMP_NUM_THREADS is not a positive whole number.
    """
    if num_threads is not None:
        return num_threads
    text = environ.get("OMP_NUM_THREADS")
    if text is not None:
        first = text.split(",")[0].strip()
        if not re.fullmatch(r"[0-9]{1,6}", first, re.ASCII) or int(first) == 0:
            raise UserError(
                f"OMP_NUM_THREADS={text!r} in the environment: expected a positive whole number; "
                "--num_threads overrides it"
            )
        return int(first)
    return max(1, num_usable_cores() // nodes_on_this_machine)


def num_usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
