"""MoTEF: BEER with the momentum that lets it do with one gradient a step."""

from typing import Any

from pcode.optim.beer import BEER


class MoTEF(BEER):
    """BEER that tracks M = momentum M + (1 - momentum) g.

    Source: Islamov et al., "Near optimal decentralized optimization with compression and momentum
    tracking", 2024, arXiv 2405.20114, Algorithm 1, whose lambda is 1 - momentum. Differences: as
    BEER's, so that with SGD's momentum BEER at (1 - momentum) times the rate is the same; with
    nesterov what is tracked looks a gradient ahead, as SGD's direction does.
    """

    takes_adam = False

    def _tracked_share(self, group: dict[str, Any]) -> float:
        share: float = 1 - group["momentum"]
        return share
