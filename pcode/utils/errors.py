"""The kinds of failure that a run knows, and the exit statuses that they lead to."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Error = TypeVar("Error", bound="RunError")

USER_ERROR = 2  # the flags cannot be followed, and nothing was written
DIVERGED = 3  # the loss or a vector is no longer finite
TAKEN = 74  # of ranks: another process has the run that the launcher has found, which looks again
PREEMPTED = 75  # SIGTERM or SIGUSR1: saved; --resume goes on (sysexits.h: EX_TEMPFAIL)
INTERRUPTED = 130  # Ctrl-C


def say(line: str) -> None:
    """Write a line of run.py's to the standard error, at once: other ranks write there too."""
    sys.stderr.write(f"run.py: {line}\n")
    sys.stderr.flush()


def lacks_memory(error: BaseException) -> bool:
    """Return whether it means that this process gets no more memory: of a machine or a GPU."""
    words = ("allocate memory", "out of memory", "can't start new thread")
    return isinstance(error, MemoryError) or any(each in str(error) for each in words)


class UserError(ValueError):
    """What the user asked for cannot be done; the message says why and what would do.

    run.py prints it as one line and ends with exit status 2 before anything is written.
    """

    exit_status = USER_ERROR


class TakenError(UserError):
    """Another process trains the run that was to go on, or has done so since it was found."""


class HostError(UserError):
    """A machine lacks what the flags need; those of other ranks may have it."""


@contextmanager
def naming_flags(flags: str) -> Iterator[None]:
    """Put these flags, as the user gave them, before a UserError that names none itself."""
    try:
        yield
    except UserError as error:
        if str(error).startswith("--"):
            raise
        raise UserError(f"{flags}: {error}") from None


class RunError(RuntimeError):
    """This node cannot go on with its step.

    Args:
        reason: what happened, in a few words ("no message within the timeout of 60 s").
        rank: the node that noticed, where it speaks of its own.
        peer: the node on the other side, or None where no single one can be named.
        step: the training step in which it did, or None outside of training.
    """

    exit_status = 1

    def __init__(
        self,
        reason: str,
        *,
        rank: int | None = None,
        peer: int | None = None,
        step: int | None = None,
    ) -> None:
        self.reason, self.rank, self.peer, self.step = reason, rank, peer, step
        places = {"rank": rank, "peer": peer, "step": step}
        known = [f"{name} {number}" for name, number in places.items() if number is not None]
        super().__init__(f"{', '.join(known)}: {reason}" if known else reason)

    def named(self: Error, members: Sequence[str], step: int | None = None) -> Error:
        """Return the same with the names that nodes, by rank, had first, and with a step."""
        rank, peer = (
            None if node is None else int(members[node]) for node in (self.rank, self.peer)
        )
        step = step if self.step is None else self.step
        named = type(self).__new__(type(self))  # constructors differ
        vars(named).update(vars(self))
        RunError.__init__(named, self.reason, rank=rank, peer=peer, step=step)
        return named


class CommunicationError(RunError):
    """A message did not arrive or could not be sent; the run ends, or goes on without its sender.

    Args:
        rank, peer, step: see RunError; of the exchange.
        reported_by_peer: whether another node has noticed it, and says so itself.
    """

    rank: int

    def __init__(
        self, reason: str, *, rank: int, reported_by_peer: bool = False, **places: int | None
    ) -> None:
        super().__init__(reason, rank=rank, **places)
        self.reported_by_peer = reported_by_peer

    def by_node(self, local_size: int) -> CommunicationError:
        """Return the same with nodes in place of processes, of which each node has so many."""
        node, peer, reason = self.rank // local_size, self.peer, self.reason
        if peer is not None:
            peer, local_rank = divmod(peer, local_size)
            if peer == node:
                peer, reason = None, f"its process {local_rank}: {reason}"
        return CommunicationError(**vars(self) | {"reason": reason, "rank": node, "peer": peer})


class DamagedMessageError(RunError):
    """What came from a peer is not what it sent; the run cannot go on from here.

    Args:
        rank, peer, step: see RunError; the two ends of the edge, and when they compared.
    """

    def __init__(self, **places: int | None) -> None:
        super().__init__(
            "a message that came from the peer since the last checkpoint is not the one that it "
            "sent: memory or the network has changed it; that checkpoint is right",
            **places,
        )


class StorageError(RunError):
    """A file of the run cannot be written; the run cannot go on."""


class LoaderError(RunError):
    """The processes that load data have died, were stopped or lack memory."""


class Preempted(Exception):  # noqa: N818  # it is no error
    """A signal asked the run to end: it was saved, on all nodes.

    Args:
        folder: the run's.
        step: after which its checkpoint was written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step
        super().__init__(f"saved after step {step}; --resume {folder} goes on")


class DivergenceError(RunError):
    """The training loss or a vector of a node is no longer made of finite numbers.

    Args:
        rank, step: see RunError.
        ranks: of which nodes, where every node raises it; None: of the node that does.
    """

    exit_status = DIVERGED

    def __init__(
        self, reason: str, *, ranks: tuple[int, ...] | None = None, **places: int | None
    ) -> None:
        super().__init__(reason, **places)
        self.ranks = ranks


class NotFiniteError(DivergenceError):
    """What was to be compressed holds NaN or infinity, in the tensor of that name."""

    def __init__(self, tensor: str) -> None:
        super().__init__(f"tensor {tensor} holds NaN or infinity")
