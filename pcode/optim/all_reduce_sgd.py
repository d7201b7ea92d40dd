"""Centralized SGD: the baseline in which all nodes average their gradients."""

from pcode.optim.base import DecentralizedOptimizer


class AllReduceSGD(DecentralizedOptimizer):
    """g <- mean_j g_j ; D ; x -= lr d, on the complete graph; nodes that start equal stay equal.

    With several local steps from one exchange to the next it is local SGD (Stich, ICLR 2019, arXiv
    1805.09767): the last one is followed by x <- mean_j x_j, and only then are nodes equal.
    """

    centralized = True

    def _recursion(self) -> None:
        averages_models = self.steps_per_exchange > 1
        if averages_models:
            self.take_local_step()
        with self.timer("wait"):
            averaged = self.x if averages_models else self.g
            self.communicator.all_reduce_mean(averaged, self.num_steps)
        if not averages_models:
            self.take_local_step()
