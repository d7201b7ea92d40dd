"""D-PSGD: neighbours average their models after every local step; and SGD with all-reduce."""

from typing import Any

from pcode.optim.base import DecentralizedOptimizer
from pcode.optim.gossip import VectorGossip
from pcode.topology.base import Graph


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


class DPSGD(DecentralizedOptimizer):
    """x_i <- sum_j w_ij (x_j - lr d_j), with the W of the round where the graph varies in time.

    Source: Lian et al., "Can decentralized algorithms outperform centralized algorithms?",
    NeurIPS 2017, Algorithm 1. Difference: the gradient is taken at the node's own x and the step
    is made before mixing, as in the experiments of arXiv 1907.09356.
    """

    time_varying = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gossip = VectorGossip(self.communicator, self.timer)

    @classmethod
    def on_graph(cls, graph: Graph) -> type[DecentralizedOptimizer]:
        """Average gradients instead of models where all nodes are neighbours."""
        return AllReduceSGD if graph.name == "complete" else cls

    def _recursion(self) -> None:
        self.take_local_step()
        self.gossip(self.x, self.topology.at(self.num_exchanges), self.num_steps)
