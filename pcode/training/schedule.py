"""A node's learning rate: its scheme, scaled up after a warm-up."""

import math
from dataclasses import dataclass

from pcode.config.options import Config
from pcode.schedules import SCHEMES, Scheme, make_scheme
from pcode.topology.base import Graph
from pcode.utils.errors import UserError
from pcode.utils.options import taken_by


@dataclass(frozen=True)
class Schedule:
    """rate(epoch) = scheme(epoch) * scale(epoch), where scale(epoch) climbs linearly from 1.

    Warm-up acts on the factor of the scale-up alone, and so means the same for every scheme: a
    scheme that is constant for so long climbs linearly from its own rate to the scaled one
    (arXiv 1706.02677), any other follows its course, scaled up a little more at each step.

    Attributes:
        scheme: the rate before scale-up; it may follow the losses.
        scale: the factor after the warm-up.
        warmup_epochs: length of the warm-up; 0: the whole factor from the first step.
    """

    scheme: Scheme
    scale: float = 1.0
    warmup_epochs: float = 0.0

    def __call__(self, epoch: float) -> float:
        """Return the learning rate at a fractional epoch, from 0 to the end of training."""
        scale = self.scale
        if epoch < self.warmup_epochs:
            scale = 1.0 + (self.scale - 1.0) * epoch / self.warmup_epochs
        return self.scheme(epoch) * scale

    @property
    def peak(self) -> float:
        """The scheme's largest rate, with the whole factor."""
        return self.scheme.peak * self.scale

    @property
    def turning_points(self) -> tuple[float, ...]:
        """Epochs within the training where the rate changes its course, ascending, from 0."""
        points = {0.0, self.warmup_epochs, *self.scheme.turning_points}
        return tuple(sorted(point for point in points if point <= self.scheme.end))


def _scale(config: Config, topology: Graph, rank: int) -> float:
    """Return how much larger than its scheme's the final learning rate of a node is."""
    learning, data = config.learning, config.data
    if not learning.lr_scaleup:
        return 1.0
    named = {"graph": topology.degree(rank) + 1.0, "world": float(topology.num_nodes)}
    try:
        factor = named.get(learning.lr_scaleup_factor) or float(learning.lr_scaleup_factor)
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise UserError(
            f"--lr_scaleup_factor {learning.lr_scaleup_factor}: expected graph, world or a number "
            "above 0"
        )
    scale = factor * data.batch_size / (data.base_batch_size or data.batch_size)
    return math.sqrt(scale) if learning.lr_scaleup_type == "sqrt" else scale


def make_schedule(config: Config, topology: Graph, rank: int, num_epochs_in_all: float) -> Schedule:
    """Make a node's schedule; on irregular graphs they differ with `--lr_scaleup_factor graph`.

    Args:
        num_epochs_in_all: when training ends, in epochs, not whole where it stops within one.

    Raises:
        UserError: a factor that is no number, or flags that the scheme cannot follow.
    """
    learning = config.learning
    name = learning.lr_schedule_scheme
    return Schedule(
        make_scheme(name, num_epochs_in_all, **taken_by(SCHEMES[name], config.flat())),
        scale=_scale(config, topology, rank),
        warmup_epochs=learning.lr_warmup_epochs if learning.lr_warmup else 0.0,
    )
