"""D2: decentralized SGD without the bias of unequal data."""

from typing import Annotated, Any

import torch

from pcode.optim.base import ROUNDING, DecentralizedOptimizer
from pcode.optim.gossip import VectorGossip
from pcode.topology.base import Graph, Topology
from pcode.topology.lossy import without_losses
from pcode.utils.errors import UserError
from pcode.utils.options import Option


class D2(DecentralizedOptimizer):
    """y = x - lr d ; x = sum_j w_ij (y_j + c_j) ; c = x - y.

    Computed as x = y + c ; z = sum_j w_ij x_j - x ; c += z ; x += z, which is the same.
    c, which starts at 0, is what mixing has moved x by last time: with it nodes whose gradients
    differ have the common optimum for their fixed point. The usual form, 2 x - x_last, is right
    for plain gradients and a constant rate alone; here the local step may be any.

    It diverges where W has an eigenvalue below -1/3. At -1/3, as on a ring of an even number of
    nodes, what mixing leaves swings and dies out by the curvature of the loss alone.

    Source: Tang et al., "D2: decentralized training over decentralized data", ICML 2018, arXiv
    1803.07068, Algorithm 1; with `exact_diffusion` Yuan et al., "Exact diffusion for distributed
    optimization and learning", 2019, arXiv 1702.05122: (I + W) / 2 in place of W. Difference:
    momentum, Adam and several local steps, whose sum is the step. Where messages are lost the sum
    of c over the nodes does not stay 0, and what it has does not decay: the mean model drifts.

    Args:
        exact_diffusion: whether to mix with (I + W) / 2, which suits every graph.
    """

    state_vectors = ("c",)
    takes_losses = True

    def __init__(
        self,
        *args: Any,
        exact_diffusion: Annotated[
            bool, Option("d2: mix with (I + W) / 2, which every graph allows")
        ] = False,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.validate(self.topology, exact_diffusion=exact_diffusion)
        self.share = 0.5 if exact_diffusion else 1.0
        self.c, self.gossip = torch.zeros_like(self.x), VectorGossip(self.communicator, self.timer)

    @classmethod
    def validate(cls, topology: Graph, *, exact_diffusion: bool = True, **given: Any) -> None:
        super().validate(topology, **given)
        graph = without_losses(topology)
        assert isinstance(graph, Topology)  # no optimizer of this kind takes another
        if not exact_diffusion and (smallest := 1 - graph.beta) < -1 / 3 - ROUNDING:
            raise UserError(
                f"it diverges where an eigenvalue of the weights is below -1/3, and {graph.name!r} "
                f"has {smallest:.3g}: --exact_diffusion True"
            )

    def _recursion(self) -> None:
        self.take_local_step()
        self.x.add_(self.c)
        graph, step = self.topology.at(self.num_exchanges), self.num_steps
        mixed = self.gossip.difference(self.x, graph, step).mul_(self.share)
        with self.timer("mix"):
            self.c.add_(mixed)
            self.x.add_(mixed)

    def resynchronise(self) -> None:
        """Forget the corrections, whose sum over other nodes need not be 0."""
        self.c.zero_()
