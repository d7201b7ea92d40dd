"""Optimizers whose exchange is hidden behind the next gradient."""

from typing import Annotated, Any

import torch

from pcode.optim.base import DecentralizedOptimizer
from pcode.utils.options import Option

OVERLAP = Option(
    "exchange while the next gradient is computed; the same numbers come out", decides=False
)


class OverlappingOptimizer(DecentralizedOptimizer):
    """An optimizer whose exchange only the next step needs: it runs while that gradient is taken.

    A step is `_receive_pending`, which ends the round before, and `_step_and_send`. A subclass has
    the first, and the second or, as ParallelChoco, a `_recursion` of its own.

    Args:
        overlap: False waits for the exchange within the step; the same numbers come out.
    """

    def __init__(
        self, *args: Any, overlap: Annotated[bool, OVERLAP] = True, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.overlap = overlap

    def _step_and_send(self) -> None:
        """Take the local step and start the exchange."""
        raise NotImplementedError

    def _receive_pending(self) -> None:
        """Wait for the round under way, if there is one, and use what has come."""
        raise NotImplementedError

    def _recursion(self) -> None:
        self.finish()
        self._step_and_send()
        if not self.overlap:
            self.finish()

    @torch.no_grad()
    def finish(self) -> None:
        self._receive_pending()
