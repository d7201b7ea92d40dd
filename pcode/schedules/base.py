"""What every learning-rate scheme is: fractional epoch -> learning rate before scale-up."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from pcode.utils.errors import UserError
from pcode.utils.options import option

# An option that several schemes have.
change_epochs = partial(
    option,
    None,
    "epochs at which it changes; strict: where a phase ends and the next begins",
    aliases=("--lr_milestones",),
    minimum=0,
)


@dataclass(eq=False)
class Scheme(ABC):
    """The learning rate before scale-up, as a function of the fractional epoch.

    To make one raises a UserError where an option is missing or cannot be followed; a message that
    does not begin with a flag is about the scheme.

    Attributes:
        end: when training ends, in epochs; not whole where training stops within one.
        turning_points: epochs at which the rate changes its course; also the end, where it changes
            till then.
    """

    # Whether the rate before the end depends on when that is.
    follows_the_end: ClassVar[bool] = False

    end: float
    turning_points: tuple[float, ...] = field(default=(), init=False)

    @property
    def description(self) -> str:
        """What the rate does, in words: the first line of the docstring."""
        return (self.__doc__ or type(self).__name__).strip().partition("\n")[0].rstrip(".")

    @abstractmethod
    def __call__(self, epoch: float) -> float:
        """Return the rate of the step that starts at a fractional epoch, 0 <= epoch <= end."""

    @property
    def peak(self) -> float:
        """The largest rate."""
        return self(0.0)

    def observe(self, loss: float) -> None:  # noqa: B027  # most schemes look at no loss
        """Note an epoch's training loss, the mean over the nodes: the same on every node."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs of the losses so far: plain numbers and texts."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most have none
        """Go on from what state_dict gave."""


def in_words(numbers: Sequence[float]) -> str:
    """Write numbers as they stand in a flag."""
    return ",".join(f"{number:g}" for number in numbers)


def check_ascending(lr_change_epochs: Sequence[float]) -> None:
    """Validate that every epoch is later than the one before it."""
    if list(lr_change_epochs) != sorted(set(lr_change_epochs)):
        raise UserError(f"--lr_change_epochs {in_words(lr_change_epochs)}: must be ascending")
