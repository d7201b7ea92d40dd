"""The kinds of failure that a run knows."""

from __future__ import annotations


class UserError(ValueError):
    """What the user asked for cannot be done; the message says why and what would do.

    run.py prints it as one line and ends with exit status 2 before anything is written.
    """


class CommunicationError(RuntimeError):
    """A message did not arrive or could not be sent; the run cannot go on.

    Args:
        reason: what happened, in a few words ("no message within 60 s").
        rank: the node that noticed.
        peer: the node on the other side, or None where no single one can be named.
        step: the training step of the exchange, or None outside of training.
    """

    def __init__(
        self, reason: str, *, rank: int, peer: int | None = None, step: int | None = None
    ) -> None:
        self.reason, self.rank, self.peer, self.step = reason, rank, peer, step
        where = f"rank {rank}"
        if peer is not None:
            where += f", peer {peer}"
        if step is not None:
            where += f", step {step}"
        super().__init__(f"{where}: {reason}")


class DivergenceError(RuntimeError):
    """The training loss or a vector of a node is no longer made of finite numbers."""


class NotFiniteError(DivergenceError):
    """What was to be compressed holds NaN or infinity.

    Args:
        tensor: its name in the layout.
    """

    def __init__(self, tensor: str) -> None:
        self.tensor = tensor
        super().__init__(f"tensor {tensor} holds NaN or infinity")
