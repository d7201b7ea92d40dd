"""A node's run from its start to its summary, and what becomes of its errors."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pcode.communication import Communicator
from pcode.communication.injection import read_faults
from pcode.training.folders import runs_folder
from pcode.training.loop import Loop
from pcode.training.plan import Plan
from pcode.training.reports import known_figures
from pcode.training.state import RunState
from pcode.training.stop import StopRequest
from pcode.utils.errors import CommunicationError, DivergenceError, StorageError

# What a disk says that takes no more.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)


def run_node(
    plan: Plan,
    communicator: Communicator,
    request: StopRequest,
    mark_step: Callable[[int], None] = lambda step: None,
    *,
    shows_progress: bool = False,
) -> tuple[dict[str, Any], Path]:
    """Train one node to the end, or evaluate it; return the run's summary and folder.

    Both are the same on every node.

    Args:
        request, mark_step, shows_progress: as of Loop.

    Raises:
        UserError: what it starts from is damaged or does not fit.
        DivergenceError: after the summary has been written.
        Preempted: after a checkpoint has been written.
        StorageError: a file could not be written.
        CommunicationError: names rank and step.
    """
    communicator.faults = read_faults(rank=communicator.process)
    state: RunState | None = None
    try:
        state = RunState(plan, communicator)
        loop = Loop(state, request, mark_step, shows_progress=shows_progress)
        summary = loop.train() if plan.evaluated is None else loop.evaluate(plan.evaluated)
    except DivergenceError as error:
        if state is None:
            raise
        raise _diverged(state, error.named(state.members)) from error
    except CommunicationError as error:
        if state is None:
            raise
        raise error.named(state.members, state.step) from error
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        step = "" if state is None else f", step {state.step}"
        raise StorageError(
            f"rank {communicator.rank if state is None else state.records.own.name}{step}: "
            f"{error.filename or runs_folder(plan.config)}: {error.strerror}; earlier checkpoints "
            "are whole"
        ) from error
    state.say(f"results: {state.records.folder}")
    return summary, state.records.folder


def _diverged(state: RunState, error: DivergenceError) -> DivergenceError:
    """Write what this node knows of a run that it cannot go on with; return what ends it.

    Every node may be the first to find out, and the others are ended with it.
    """
    try:
        state.records.write_summary(known_figures(state, f"diverged: {error}"))
        state.records.close()
    except OSError as full:
        return DivergenceError(f"{error}; and no summary could be written: {full.strerror}")
    return error
