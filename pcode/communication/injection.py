"""Failures on purpose, for tests: a rank stops, dies, waits or corrupts its numbers at one place.

The environment variable PCODE_INJECT holds ACTION:RANK:STEP:PHASE, several separated by commas.

- RANK: that of a process, counted node after node.
- ACTION: `stop` (SIGSTOP), `kill` (SIGKILL), `delay=SECONDS`, or `corrupt`: what is in hand there
  (the parameters, the gradient, an outgoing message, the checkpoint's file) is made useless; in the
  phase `arrival` one bit of a message that has come is flipped.
- STEP: how many steps the rank has made, or `*` for the first time it comes there.
- PHASE: one of PHASES.

Each happens once. Where the variable is not set, communicators are not wrapped, and their
`fail_point` does nothing.
"""

import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from pcode.communication.base import Communicator, TensorsByPeer, Wait
from pcode.utils.errors import UserError

VARIABLE = "PCODE_INJECT"
PHASES = (
    *("data", "forward", "backward", "exchange", "arrival"),
    *("meeting", "evaluate", "save", "manifest"),
)
CORRUPTIBLE = ("forward", "backward", "exchange", "arrival", "save")
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


def read_faults(environ: Mapping[str, str] = os.environ) -> list[Fault]:
    """Return the failures that the environment asks for, of all processes."""
    text = environ.get(VARIABLE, "")
    return [_parse(part) for part in text.split(",")] if text else []


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


def inject(communicator: Communicator, environ: Mapping[str, str] = os.environ) -> Communicator:
    """Wrap a communicator where the environment asks for failures of this process."""
    faults = [fault for fault in read_faults(environ) if fault.rank == communicator.process]
    return InjectingCommunicator(communicator, faults) if faults else communicator


class InjectingCommunicator(Communicator):
    """Another communicator, whose process fails on purpose."""

    def __init__(self, inner: Communicator, faults: Sequence[Fault]) -> None:
        self._inner, self._faults = inner, faults
        self.rank, self.size, self.local_ranks = inner.rank, inner.size, inner.local_ranks
        self.bytes_sent, self.names_peers = inner.bytes_sent, inner.names_peers

    def fail_point(
        self, phase: str, step: int | None, corrupt: Callable[[], object] | None = None
    ) -> None:
        for fault in self._faults:
            if fault.phase == phase and fault.step in (None, step) and not fault.done:
                fault.happen(corrupt)

    def _exchange(self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None) -> Wait:
        def corrupt() -> None:
            for tensor in outgoing.values():
                tensor.view(torch.uint8).fill_(255)  # NaN, where they are floats

        def flip() -> None:
            message = next(iter(incoming.values())).view(torch.uint8)
            message[message.numel() // 2] ^= 1

        self.fail_point("exchange", step, corrupt)
        exchange = self._inner.exchange(outgoing, incoming, step)

        def wait() -> None:
            exchange.wait()
            self.fail_point("arrival", step, flip)

        return wait

    def _all_reduce(self, tensor: torch.Tensor, step: int | None) -> None:
        self._inner.all_reduce(tensor, step)

    def all_gather(self, tensor: torch.Tensor, step: int | None = None) -> list[torch.Tensor]:
        return self._inner.all_gather(tensor, step)

    def average(self, tensor: torch.Tensor) -> None:
        self._inner.average(tensor)

    def barrier(self, step: int | None = None) -> None:
        self._inner.barrier(step)

    def _recover(self, reason: str) -> tuple[Communicator, list[int]]:
        communicator, survivors = self._inner.recover(reason)
        return InjectingCommunicator(communicator, self._faults), survivors
