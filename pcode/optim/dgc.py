"""Deep gradient compression: all nodes send the largest part of what they have gathered to all."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch

from pcode.compression.base import Compressor
from pcode.optim.compressed import CompressedOptimizer
from pcode.optim.local import LocalSGD
from pcode.topology.base import Graph
from pcode.utils.errors import UserError
from pcode.utils.options import Option, needs

# Keeps the clipping factor of an all-zero tensor finite, as torch.nn.utils.clip_grad_norm_ does.
NORM_EPSILON = 1e-6


_MOMENTUM = needs("momentum_factor", "there is no momentum with --momentum_factor 0")
_WARMUP = needs("compress_warmup_epochs", "there is no warm-up with --compress_warmup_epochs 0")


class DGC(CompressedOptimizer):
    """v = d + e ; q = Q(v) ; e = v, 0 where q is not ; x -= (lr / n) sum_j q_j.

    e, what was not sent so far, starts at 0; d is the direction of the local step. Q selects
    coordinates (top-k, random-k). Nodes that start equal stay equal, bit for bit.

    - Clipping: each tensor of g + weight_decay x is scaled to a norm of at most
      clip_grad_val / sqrt(n) before momentum.
    - Masking (mask_momentum): buf = 0 where q is not.
    - Warm-up: in epoch i < compress_warmup_epochs the share that is dropped is
      compress_warmup_values[i] (the last one where there are fewer), afterwards the compressor's.

    Source: Lin et al., "Deep gradient compression", ICLR 2018, arXiv 1712.01887, sections 3.1 to
    3.3. Differences: the paper's velocity u is buf and its sum v is e; with nesterov d is that of
    torch.optim.SGD; a coordinate that was selected with the value 0 is not masked.

    Args:
        clip_grad, clip_grad_val: whether and to what norm to clip.
        mask_momentum, compress_warmup_values, compress_warmup_epochs: as above.
    """

    state_vectors = ("e",)
    centralized = clips_gradients = True
    takes_adam = takes_local_steps = False

    def __init__(
        self,
        *args: Any,
        clip_grad: bool = False,
        clip_grad_val: float | None = None,
        mask_momentum: Annotated[
            bool, Option("dgc: no momentum left where a coordinate was sent", irrelevant=_MOMENTUM)
        ] = False,
        compress_warmup_values: Annotated[
            Sequence[float],
            Option(
                "dgc: share that is dropped in each epoch of the warm-up",
                minimum=0,
                below=1,
                irrelevant=_WARMUP,
                kind=tuple[float, ...],
                default=(0.75, 0.9375, 0.984375, 0.996, 0.999),
            ),
        ] = (),
        compress_warmup_epochs: Annotated[int, Option("dgc: epochs of the warm-up", minimum=0)] = 0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._clip_norm = math.inf
        if clip_grad and clip_grad_val is not None:
            self._clip_norm = clip_grad_val / math.sqrt(self.topology.num_nodes)
            sizes = torch.tensor(self.layout.sizes, device=self.x.device)
            numbers = torch.arange(len(sizes), dtype=torch.int32, device=self.x.device)
            self._tensor_of = numbers.repeat_interleave(sizes)  # of each entry
        self.mask_momentum = mask_momentum
        self._warmup_ratios = tuple(compress_warmup_values)
        self._warmup_epochs = compress_warmup_epochs if self._warmup_ratios else 0
        self._stage: float | None = None
        self.e = torch.zeros_like(self.x)

    @classmethod
    def validate(cls, topology: Graph, **given: Any) -> None:
        super().validate(topology, **given)
        compressor: Compressor | None = given.get("compressor")
        if compressor is not None and not compressor.is_sparse:
            raise UserError(
                "it gathers the coordinates that are not sent, and this compressor sends all; "
                "--comm_op compress_top_k or compress_random_k"
            )

    @classmethod
    def notes(cls, **flags: Any) -> list[str]:
        if not (epochs := flags["compress_warmup_epochs"]):
            return []
        shares = ", ".join(
            f"{100 * ratio:g} %" for ratio in flags["compress_warmup_values"][:epochs]
        )
        return [
            f"warm-up of {epochs} epochs, which drop {shares} in turn, and send more than later"
        ]

    def _warm_up(self) -> None:
        """Use the compressor of this epoch."""
        stage = None
        if self.epoch < self._warmup_epochs:
            stage = self._warmup_ratios[min(int(self.epoch), len(self._warmup_ratios) - 1)]
        if stage != self._stage:
            self._stage, final = stage, self.compressor
            compressor = final if stage is None else final.with_options(compress_ratio=stage)
            self._gossip = self._gossip_of(compressor)

    def _clip(self) -> None:
        """Scale each tensor of g to its largest norm."""
        tensors = self.layout.views(self.g)
        norms = torch.stack(torch._foreach_norm(tensors))
        factors = (self._clip_norm / (norms + NORM_EPSILON)).clamp_(max=1.0)
        # Entry by entry: a GPU would be given a launch for every tensor.
        self.g.mul_(factors.index_select(0, self._tensor_of))

    def _recursion(self) -> None:
        assert isinstance(self.local, LocalSGD)
        self._warm_up()
        with self.timer("local_update"):
            self.local.add_weight_decay()
            if self._clip_norm < math.inf:
                self._clip()
            self.local.add_direction(self.e)
        self._gossip.send(self.e, None, self.num_steps)
        # g is free from here on
        self._gossip.add_own(self.g.zero_())
        with self.timer("mix"):
            sent = self.g != 0
            self.e.masked_fill_(sent, 0.0)
            if self.mask_momentum:
                self.local.buf.masked_fill_(sent, 0.0)
        self._gossip.receive([(self.g.zero_(), self._gossip.mean, 1.0)])
        with self.timer("local_update"):
            self.apply(self.g)
