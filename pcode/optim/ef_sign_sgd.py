"""SGD with error feedback: all nodes send their compressed directions to all."""

from typing import Annotated, Any

import torch

from pcode.optim.compressed import CompressedOptimizer
from pcode.optim.local import LocalSGD
from pcode.utils.options import Option


class EFSignSGD(CompressedOptimizer):
    """v = d + e ; c = Q(v) ; e = v - c ; x -= (lr / n) sum_j c_j.

    e, what compression has left out so far, starts at 0; nodes that start equal stay equal, bit
    for bit. With majority_vote the mean of the c_j is replaced, coordinate by coordinate, by the
    sign of sum_j sign(c_j) times the mean of |c_j|; where the votes are even nothing moves.

    Source: Karimireddy et al., "Error feedback fixes SignSGD and other gradient compression
    schemes", ICML 2019, arXiv 1901.09847, Algorithm 2, in its distributed form; majority vote:
    Bernstein et al., ICLR 2019, arXiv 1810.05291. Differences: the direction has momentum and
    weight decay and e is that of directions, not of steps (lr d), so that a changed rate applies
    to what was left out as well; any contraction may take the place of sign.

    Args:
        majority_vote: as above.
    """

    state_vectors = ("e",)
    centralized = True
    takes_adam = takes_local_steps = False

    def __init__(
        self,
        *args: Any,
        majority_vote: Annotated[
            bool, Option("ef_sign_sgd: step by the sign of the nodes' votes")
        ] = False,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.majority_vote = majority_vote
        self.e = torch.zeros_like(self.x)

    def _recursion(self) -> None:
        assert isinstance(self.local, LocalSGD)
        with self.timer("local_update"):
            self.local.add_weight_decay()
            self.local.add_direction(self.e)
        self._gossip.send(self.e, None, self.num_steps)
        if self.majority_vote:
            update = self._vote()
        else:
            update = self.g.zero_()
            self._gossip.receive(
                [(self.e, self._gossip.own, -1.0), (update, self._gossip.mean, 1.0)]
            )
        with self.timer("local_update"):
            self.apply(update)

    def _vote(self) -> torch.Tensor:
        """sign(sum_j sign(c_j)) * mean_j |c_j|, and e -= c_i."""
        votes, magnitude = torch.zeros_like(self.x), torch.zeros_like(self.x)
        for rank, c in enumerate(self._gossip.receive_one_by_one(self.g)):
            if rank == self.communicator.rank:
                self.e.sub_(c)
            votes.add_(c.sign())
            magnitude.add_(c.abs_(), alpha=1 / self.topology.num_nodes)
        return magnitude.mul_(votes.sign_())
