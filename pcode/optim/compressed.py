"""What optimizers that send compressed messages share."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch

from pcode.communication.base import Communicator
from pcode.communication.gathering import is_same_everywhere
from pcode.compression.base import Compressor
from pcode.optim.base import DecentralizedOptimizer
from pcode.optim.gossip import Gossip, VectorGossip
from pcode.optim.overlapping import OverlappingOptimizer
from pcode.topology.base import Topology
from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from pcode.utils.options import Option

ConsensusStepsize = Annotated[
    float,
    Option(
        "gamma; none: by compressor; auto: by a short search on the run's graph and compressor",
        metavar="GAMMA",
        aliases=("--choco_consenus_stepsize",),  # as the paper's code spells it
        above=0,
        maximum=1,
        kind=float | Literal["auto"] | None,
        default=None,
    ),
]


class CompressedOptimizer(DecentralizedOptimizer):
    """An optimizer that sends compressed messages.

    Args:
        compressor: Q.
        gossip_class: how messages travel; another one may play all nodes at once.
        seed: the run's seed, for compressors that draw.
    """

    compresses = True
    # Whether what compression leaves out vanishes as nodes without gradients come to agree.
    converges: ClassVar[bool] = True

    def __init__(
        self,
        params: Iterable[Any],
        communicator: Communicator,
        topology: Topology,
        *,
        compressor: Compressor,
        gossip_class: type[Gossip] = Gossip,
        seed: int = 0,
        **local: Any,
    ) -> None:
        super().__init__(params, communicator, topology, compressor=compressor, **local)
        self.topology: Topology = topology
        self.compressor = compressor
        self.seed = seed
        self._gossip_of: Callable[..., Gossip] = partial(
            gossip_class,
            communicator,
            topology,
            layout=self.layout,
            device=self.x.device,
            seed=seed,
            timer=self.timer,
        )
        self._gossip = self._gossip_of(compressor)

    @classmethod
    def message_bytes_of(cls, layout: Layout, compressor: Compressor, **flags: Any) -> int:
        return compressor.message_bytes(layout)

    @classmethod
    def warnings(
        cls, topology: Topology, compressor: Compressor, layout: Layout, **flags: Any
    ) -> list[str]:
        delta = compressor.contraction(layout)
        if delta > 0:
            return []
        return [
            f"with these flags the compression is no contraction (it may add {1 - delta:.3g} times "
            "what it is given), which error feedback needs (arXiv 1907.09356, Assumption 1): "
            "expect divergence; --is_biased True"
        ]


class OverlappingCompressedOptimizer(OverlappingOptimizer, CompressedOptimizer):
    """One that sends compressed messages, which only the next step needs."""

    def cancel_pending(self) -> None:
        self._gossip.cancel_pending()


def make_copies_exact(optimizer: CompressedOptimizer, hat: torch.Tensor, z: torch.Tensor) -> None:
    """hat_i = x_i everywhere, so that z_i = sum_j w_ij x_j - x_i; all nodes call it."""
    gossip = VectorGossip(optimizer.communicator, optimizer.timer)
    z.copy_(gossip.difference(optimizer.x, optimizer.topology, optimizer.num_steps))
    hat.copy_(optimizer.x)


def require_equal_start(optimizer: DecentralizedOptimizer) -> None:
    """Raise UserError if the nodes start from models that differ; all of them call it."""
    if not is_same_everywhere(optimizer.communicator, optimizer.x):
        raise UserError(
            f"{type(optimizer).__name__} needs the same model on every node at the start; "
            "average or broadcast the nodes' parameters first"
        )


def warn_of_bias(compressor: Compressor) -> list[str]:
    """Return what optimizers whose theory asks for unbiased compression say of a biased one."""
    if not getattr(compressor, "is_biased", False):
        return []
    return ["its theory asks for unbiased compression (arXiv 1803.06443): --is_biased False"]
