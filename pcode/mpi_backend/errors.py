"""What this package raises."""

from torch.distributed import DistBackendError


class MPISetupError(RuntimeError):
    """MPI is missing or unfit, or rank 0 cannot be reached; the message says what would do."""


class MPIError(DistBackendError):
    """An operation failed or took longer than its time limit, on this rank or on another.

    Args:
        reason: what happened, in a few words ("no message within 60 s").
        rank: this process, in the world.
        peer: the rank on the other side, or None where no single one can be named.
        reported_by_peer: whether another rank has noticed it, and says so itself.
    """

    def __init__(
        self, reason: str, *, rank: int, peer: int | None = None, reported_by_peer: bool = False
    ) -> None:
        self.reason, self.rank, self.peer = reason, rank, peer
        self.reported_by_peer = reported_by_peer
        ranks = f"rank {rank}" if peer is None else f"rank {rank}, peer {peer}"
        super().__init__(f"{ranks}: {reason}")
