"""Whether drawn samples fit into memory: found out before any is drawn."""

from __future__ import annotations

import os

from pcode.utils.errors import UserError


def check_fits(data: str, num_bytes: int) -> None:
    """Refuse what is larger than this machine's memory.

    Args:
        data: what --data names.
        num_bytes: what all of it takes, in each process.

    Raises:
        UserError: it does not fit.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if num_bytes > memory:
        raise UserError(
            f"--data {data}: takes {num_bytes / 1e9:,.1f} GB of memory and this machine has "
            f"{memory / 1e9:,.1f} GB; give smaller sizes"
        )
