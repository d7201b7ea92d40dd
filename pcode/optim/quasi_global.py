"""Quasi-global momentum: a local momentum that follows the nodes' common movement."""

from typing import Annotated, Any

import torch

from pcode.optim.base import DecentralizedOptimizer
from pcode.optim.gossip import VectorGossip
from pcode.optim.local import AdamOptions, LocalAdam
from pcode.topology.base import Graph
from pcode.utils.errors import UserError
from pcode.utils.options import Option

# Keeps the direction of no movement finite.
SMALLEST_NORM = 1e-8


class QuasiGlobalSGD(DecentralizedOptimizer):
    """buf = m ; x -= lr d ; x' = sum_j w_ij x_j ; m = mu m + (1 - mu) (x_before - x') / lr.

    d = g + momentum buf, or with nesterov g + momentum (g + momentum buf), as in SGD; but the
    momentum that a node begins with is that of the models' movement, mixing included, and not of
    its own gradients. m starts at 0.

    With Adam (QG-Adam) both of its moments are m and v, fed in the same way with the movement
    (x_before - x') over its 2-norm.

    Source: Lin et al., "Quasi-global momentum: accelerating decentralized deep learning on
    heterogeneous data", ICML 2021, arXiv 2102.04761, Algorithms 1 and 2. Differences: weight decay
    is part of the gradient; with several local steps from one exchange to the next the movement
    is that of all of them, divided by their number, and each begins with the momentum that the
    one before left; Adam's moments are corrected for their start, as torch.optim.Adam's are, by the
    number of local steps; where the rate is 0, m takes nothing of the movement.

    Args:
        global_decay: mu.
    """

    time_varying = True
    takes_losses = True

    def __init__(
        self,
        *args: Any,
        global_decay: Annotated[
            float,
            Option("decentralized_qg_sgd: mu, decay of the common momentum", minimum=0, below=1),
        ] = 0.9,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.mu, self.gossip = global_decay, VectorGossip(self.communicator, self.timer)
        self.before = torch.zeros_like(self.x)
        moments = self.local.vectors
        names = ("exp_avg", "exp_avg_sq") if isinstance(self.local, LocalAdam) else ("buf",)
        # What the local step is to begin with, beside what it makes of that.
        self._common = {f"common_{name}": torch.zeros_like(self.x) for name in names}
        self._local = [moments[name] for name in names]

    @classmethod
    def validate(cls, topology: Graph, **given: Any) -> None:
        super().validate(topology, **given)
        adam: AdamOptions | None = given.get("adam")
        if adam is not None and adam.memory_treatment == "reset":
            raise UserError(
                "its moments are the models', which follow from each exchange: "
                "--local_adam_memory_treatment none"
            )

    def _vectors(self) -> dict[str, torch.Tensor]:
        return {**super()._vectors(), **self._common, "before": self.before}

    def _start(self) -> None:
        self.before.copy_(self.x)

    def _recursion(self) -> None:
        self.take_local_step()
        # Exactly 0 where models are equal: what rounding leaves is not divided by a small rate.
        mixed = self.gossip.difference(self.x, self.topology.at(self.num_exchanges), self.num_steps)
        with self.timer("mix"):
            self.x.add_(mixed)
            self.before.sub_(self.x)  # the movement
            if isinstance(self.local, LocalAdam):
                self._feed_adam(self.local)
            else:
                self._feed_sgd(self._common["common_buf"])
            for own, common in zip(self._local, self._common.values(), strict=True):
                own.copy_(common)
            self.before.copy_(self.x)

    def _feed_sgd(self, m: torch.Tensor) -> None:
        self.divide_by_rate(self.before)
        m.mul_(self.mu).add_(self.before, alpha=(1 - self.mu) / self.steps_since_exchange)

    def _feed_adam(self, local: LocalAdam) -> None:
        first, second = self._common.values()
        self.before.div_(self.before.norm().clamp_(min=SMALLEST_NORM))
        beta_1, beta_2 = local.options.beta_1, local.options.beta_2
        first.mul_(beta_1).add_(self.before, alpha=1 - beta_1)
        second.mul_(beta_2).addcmul_(self.before, self.before, value=1 - beta_2)

    def resynchronise(self) -> None:
        """Begin from this x with the momentum that the local step has, which may be the mean's."""
        self.before.copy_(self.x)
        for own, common in zip(self._local, self._common.values(), strict=True):
            common.copy_(own)
