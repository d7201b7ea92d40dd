"""A round in which neighbours send each other whole vectors."""

import torch

from pcode.communication.base import Communicator
from pcode.topology.base import Mixing as Round
from pcode.utils.timing import StepTimer


class Mixing:
    """x_i <- sum_j w_ij x_j.

    Args:
        timer: gets the parts wait and mix.

    Attributes:
        received: buffers, as many as a round so far had senders.
    """

    def __init__(self, communicator: Communicator, timer: StepTimer) -> None:
        self._communicator, self._timer = communicator, timer
        self.received: list[torch.Tensor] = []

    def __call__(self, x: torch.Tensor, round_: Round, step: int) -> None:
        """Replace this node's flat x; all nodes call it, with the same round."""
        rank = self._communicator.rank
        weights, senders = round_.weights(rank), round_.senders(rank)
        while len(self.received) < len(senders):
            self.received.append(torch.empty_like(x))
        incoming = dict(zip(senders, self.received, strict=False))
        with self._timer("wait"):
            outgoing = dict.fromkeys(round_.receivers(rank), x)
            self._communicator.exchange(outgoing, incoming, step).wait()
        with self._timer("mix"):
            x.mul_(weights.get(rank, 0.0))
            for peer, x_j in incoming.items():
                x.add_(x_j, alpha=weights[peer])
