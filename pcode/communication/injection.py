"""Failures on purpose, for tests: a rank stops, dies, waits or corrupts its numbers at one place.

The environment variable PCODE_INJECT holds ACTION:RANK:STEP:PHASE, several separated by commas.

- RANK: that of a process, counted node after node.
- ACTION: `stop` (SIGSTOP), `kill` (SIGKILL), `delay=SECONDS`, or `corrupt`: what is in hand there
  (the parameters, an outgoing message, the checkpoint's file) is made useless.
- STEP: how many steps the rank has made, or `*` for the first time it comes there.
- PHASE: one of PHASES.

Each happens once. Nothing is looked at where the variable is not set.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pcode.utils.errors import UserError

VARIABLE = "PCODE_INJECT"
PHASES = ("data", "forward", "backward", "exchange", "meeting", "evaluate", "save", "manifest")
CORRUPTIBLE = ("forward", "exchange", "save")
ACTIONS = ("stop", "kill", "delay", "corrupt")
_FAULT = re.compile(
    rf"(?:(stop|kill|corrupt)|delay=(\d*\.?\d+)):(\d+):(\*|\d+):({'|'.join(PHASES)})", re.ASCII
)


@dataclass
class Fault:
    """One failure to come; step is None for the first time that the rank comes to the phase."""

    action: str
    seconds: float
    rank: int
    step: int | None
    phase: str
    done: bool = False

    def happen(self, corrupt: Callable[[], object] | None) -> None:
        """Let it happen, for good."""
        self.done = True
        if self.action == "delay":
            time.sleep(self.seconds)
        elif self.action == "corrupt":
            assert corrupt is not None, "one of CORRUPTIBLE"
            corrupt()
        else:
            os.kill(os.getpid(), signal.SIGSTOP if self.action == "stop" else signal.SIGKILL)


def read_faults(environ: Mapping[str, str] = os.environ, rank: int | None = None) -> list[Fault]:
    """The failures that the environment asks for, of all processes or of one."""
    text = environ.get(VARIABLE, "")
    faults = [_parse(part) for part in text.split(",")] if text else []
    return [fault for fault in faults if rank in (None, fault.rank)]


def _parse(text: str) -> Fault:
    parts = _FAULT.fullmatch(text.strip())
    if parts is None:
        raise UserError(
            f"{VARIABLE}={text!r}: expected ACTION:RANK:STEP:PHASE, with actions "
            f"{', '.join(ACTIONS)} (delay=SECONDS) and phases {', '.join(PHASES)}"
        )
    action, seconds, rank, step, phase = parts.groups()
    if action == "corrupt" and phase not in CORRUPTIBLE:
        raise UserError(
            f"{VARIABLE}={text!r}: nothing can be spoilt in that phase, but in "
            f"{', '.join(CORRUPTIBLE)}"
        )
    number = None if step == "*" else int(step)
    return Fault(action or "delay", float(seconds or 0), int(rank), number, phase)


def corrupt_messages(outgoing: Mapping[int, torch.Tensor]) -> None:
    """Fill messages with what is NaN, where they are floats."""
    for tensor in outgoing.values():
        tensor.view(torch.uint8).fill_(255)
