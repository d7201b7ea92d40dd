"""D-PSGD: neighbours average their models after every local step."""

from typing import Any

from pcode.optim.all_reduce_sgd import AllReduceSGD
from pcode.optim.base import DecentralizedOptimizer
from pcode.optim.gossip import VectorGossip
from pcode.topology.base import Graph
from pcode.topology.lossy import Lossy


class DPSGD(DecentralizedOptimizer):
    """x_i <- sum_j w_ij (x_j - lr d_j), with the W of the round where the graph varies in time.

    Source: Lian et al., "Can decentralized algorithms outperform centralized algorithms?",
    NeurIPS 2017, Algorithm 1. Difference: the gradient is taken at the node's own x and the step
    is made before mixing, as in the experiments of arXiv 1907.09356.
    """

    time_varying = True
    takes_losses = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gossip = VectorGossip(self.communicator, self.timer)

    @classmethod
    def on_graph(cls, graph: Graph) -> type[DecentralizedOptimizer]:
        """Average gradients instead of models on the complete graph, if nothing is lost."""
        return AllReduceSGD if graph.name == "complete" and not isinstance(graph, Lossy) else cls

    def _recursion(self) -> None:
        self.take_local_step()
        self.gossip(self.x, self.topology.at(self.num_exchanges), self.num_steps)
