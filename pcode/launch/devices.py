"""How many CPU threads a node gets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import joblib

from pcode.errors import UserError


def threads_per_node(
    num_threads: int | None,
    nodes_on_this_machine: int,
    environ: Mapping[str, str] = os.environ,
    num_cores: int | None = None,
) -> int:
    """CPU threads of a node: --num_threads, else OMP_NUM_THREADS, else its share of the cores.

    The cores, unless given, are those that this process may use, in a container no more than its
    limit. A list in OMP_NUM_THREADS is one number for each level of nested parallelism: the first
    counts.

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
    return max(1, (num_cores or num_usable_cores()) // nodes_on_this_machine)


def num_usable_cores() -> int:
    """Cores that this process may run on, or those whose time its control group may use if fewer.

    A container's limit is a share of time on all cores; a share of a core counts as one.
    """
    return int(joblib.cpu_count())
