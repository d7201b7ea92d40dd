"""Failures on purpose, for tests: a rank stops, dies, waits or spoils its numbers at one place.

The environment variable PCODE_INJECT holds ACTION:RANK:STEP:PHASE, several separated by commas.

RANK is that of a process: where a node has several, they are counted node after node.

- ACTION: `stop` (SIGSTOP), `kill` (SIGKILL), `delay=SECONDS`, or `corrupt`: what is in hand there
  (the parameters, an outgoing message, the checkpoint's file) is spoilt.
- STEP: how many steps the rank has made, or `*` for the first time it comes there.
- PHASE: one of PHASES.

Each happens once. Nothing is looked at where the variable is not set.
"""

import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from pcode.communication.base import Communicator, Exchange, Messages
from pcode.utils.errors import UserError

VARIABLE = "PCODE_INJECT"
PHASES = ("data", "forward", "backward", "exchange", "meeting", "evaluate", "save", "manifest")
CORRUPTIBLE = ("forward", "exchange", "save")
ACTIONS = ("stop", "kill", "delay", "corrupt")


@dataclass
class Fault:
    """One failure to come; step is None for the first time that the rank comes to the phase."""

    action: str
    seconds: float
    rank: int
    step: int | None
    phase: str
    done: bool = False

    def happen(self, spoil: Callable[[], None] | None) -> None:
        """Let it happen, for good."""
        self.done = True
        if self.action == "delay":
            time.sleep(self.seconds)
        elif self.action == "corrupt":
            assert spoil is not None, "one of CORRUPTIBLE"
            spoil()
        else:
            os.kill(os.getpid(), signal.SIGSTOP if self.action == "stop" else signal.SIGKILL)


def _parse(text: str) -> Fault:
    malformed = UserError(
        f"{VARIABLE}={text!r}: expected ACTION:RANK:STEP:PHASE, with actions "
        f"{', '.join(ACTIONS)} (delay=SECONDS) and phases {', '.join(PHASES)}"
    )
    parts = text.strip().split(":")
    if len(parts) != 4 or parts[3] not in PHASES:
        raise malformed
    action, _, seconds = parts[0].partition("=")
    if action == "corrupt" and parts[3] not in CORRUPTIBLE:
        raise UserError(
            f"{VARIABLE}={text!r}: nothing can be spoilt in that phase, but in "
            f"{', '.join(CORRUPTIBLE)}"
        )
    if action not in ACTIONS or (action == "delay") != bool(seconds):
        raise malformed
    try:
        step = None if parts[2] == "*" else int(parts[2])
        fault = Fault(action, float(seconds or 0), int(parts[1]), step, parts[3])
    except ValueError:
        raise malformed from None
    if not 0 <= fault.seconds < math.inf or fault.rank < 0 or (step is not None and step < 0):
        raise malformed
    return fault


def read_faults(environ: Mapping[str, str] = os.environ) -> list[Fault]:
    """The failures that the environment asks for.

    Raises:
        UserError: the variable is malformed.
    """
    text = environ.get(VARIABLE, "")
    return [_parse(part) for part in text.split(",")] if text else []


def inject(communicator: Communicator, environ: Mapping[str, str] = os.environ) -> Communicator:
    """Wrap a communicator where the environment asks for failures of this process.

    Raises:
        UserError: the variable is malformed.
    """
    faults = [fault for fault in read_faults(environ) if fault.rank == communicator.process]
    return InjectingCommunicator(communicator, faults) if faults else communicator


class InjectingCommunicator(Communicator):
    """A communicator whose process fails on purpose.

    Args:
        inner: does what is asked for.
        faults: of this process.
    """

    def __init__(self, inner: Communicator, faults: Sequence[Fault]) -> None:
        self._inner, self._faults = inner, faults
        self.rank, self.size, self.local_ranks = inner.rank, inner.size, inner.local_ranks
        self.names_peers = inner.names_peers

    @property
    def bytes_sent(self) -> int:
        return self._inner.bytes_sent

    @bytes_sent.setter
    def bytes_sent(self, num_bytes: int) -> None:
        self._inner.bytes_sent = num_bytes

    def reach(self, phase: str, step: int, spoil: Callable[[], None] | None = None) -> None:
        for fault in self._faults:
            if fault.phase == phase and fault.step in (None, step) and not fault.done:
                fault.happen(spoil)

    def exchange(self, outgoing: Messages, incoming: Messages, step: int | None = None) -> Exchange:
        def spoil() -> None:
            for tensor in outgoing.values():
                tensor.view(torch.uint8).fill_(255)  # NaN, where they are floats

        self.reach("exchange", -1 if step is None else step, spoil)
        return self._inner.exchange(outgoing, incoming, step)

    def all_reduce(self, tensor: torch.Tensor, step: int | None = None) -> None:
        self._inner.all_reduce(tensor, step)

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        return self._inner.all_gather(tensor, step)

    def average(self, tensor: torch.Tensor) -> None:
        self._inner.average(tensor)

    def barrier(self, step: int | None = None) -> None:
        self._inner.barrier(step)

    def report(self, error: Exception, step: int | None = None) -> None:
        self._inner.report(error, step)

    def recover(self) -> tuple[Communicator, list[int]]:
        communicator, survivors = self._inner.recover()
        return InjectingCommunicator(communicator, self._faults), survivors
