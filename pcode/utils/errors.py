"""The kinds of failure that a run knows, and the exit statuses that they lead to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

USER_ERROR = 2  # the flags cannot be followed, and nothing was written
DIVERGED = 3  # the loss or a vector is no longer finite
PREEMPTED = 75  # SIGTERM or SIGUSR1: saved; --resume goes on (sysexits.h: EX_TEMPFAIL)
INTERRUPTED = 130  # Ctrl-C


def _placed(reason: str, **places: int | None) -> str:
    """The reason, after the places that are known."""
    known = [f"{name} {number}" for name, number in places.items() if number is not None]
    return f"{', '.join(known)}: {reason}" if known else reason


class UserError(ValueError):
    """What the user asked for cannot be done; the message says why and what would do.

    run.py prints it as one line and ends with exit status 2 before anything is written.
    """

    exit_status = USER_ERROR


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
    """This node cannot go on with its step."""

    exit_status = 1


class CommunicationError(RunError):
    """A message did not arrive or could not be sent; the run ends, or goes on without its sender.

    Args:
        reason: what happened, in a few words ("no message within 60 s").
        rank: the node that noticed.
        peer: the node on the other side, or None where no single one can be named.
        step: the training step of the exchange, or None outside of training.
        reported_by_peer: whether another node has noticed it, and says so itself.
    """

    def __init__(
        self,
        reason: str,
        *,
        rank: int,
        peer: int | None = None,
        step: int | None = None,
        reported_by_peer: bool = False,
    ) -> None:
        self.reason, self.rank, self.peer, self.step = reason, rank, peer, step
        self.reported_by_peer = reported_by_peer
        super().__init__(_placed(reason, rank=rank, peer=peer, step=step))

    def by_node(self, local_size: int) -> CommunicationError:
        """The same with nodes in place of processes, of which each node has so many."""
        node, peer, reason = self.rank // local_size, self.peer, self.reason
        if peer is not None:
            peer, local_rank = divmod(peer, local_size)
            if peer == node:
                peer, reason = None, f"its process {local_rank}: {reason}"
        return CommunicationError(**vars(self) | {"reason": reason, "rank": node, "peer": peer})

    def named(self, members: Sequence[str], step: int) -> CommunicationError:
        """The same with the names that nodes, by rank, had first; and a step if it has none."""
        rank, peer = int(members[self.rank]), self.peer
        peer = None if peer is None else int(members[peer])
        step = step if self.step is None else self.step
        return CommunicationError(**vars(self) | {"rank": rank, "peer": peer, "step": step})


class StorageError(RunError):
    """A file of the run cannot be written; the run cannot go on."""


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
        reason: what is not finite.
        rank: the node that noticed, where it speaks of its own.
        step: in which it did, where that is known.
        ranks: of which nodes, where every node raises it; None: of the node that does.
    """

    exit_status = DIVERGED

    def __init__(
        self,
        reason: str,
        *,
        rank: int | None = None,
        step: int | None = None,
        ranks: tuple[int, ...] | None = None,
    ) -> None:
        self.reason, self.rank, self.step, self.ranks = reason, rank, step, ranks
        super().__init__(_placed(reason, rank=rank, step=step))

    def named(self, members: Sequence[str]) -> DivergenceError:
        """The same with the name that the node had at the beginning; members are by rank."""
        rank = None if self.rank is None else int(members[self.rank])
        return DivergenceError(self.reason, rank=rank, step=self.step, ranks=self.ranks)


class NotFiniteError(DivergenceError):
    """What was to be compressed holds NaN or infinity; `tensor` is its name in the layout."""

    def __init__(self, tensor: str) -> None:
        super().__init__(f"tensor {tensor} holds NaN or infinity")
