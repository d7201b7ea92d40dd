"""Centralized SGD: the baseline in which all nodes average their gradients."""

from __future__ import annotations

from pcode.optim.base import Law


class AllReduceSGD(Law):
    """g <- mean_j g_j ; D ; x -= lr d. The graph must be complete; every node keeps the same x."""

    def _recursion(self) -> None:
        with self.timer("wait"):
            self.communicator.all_reduce_mean(self.g, self.num_steps)
        self.local_step()
