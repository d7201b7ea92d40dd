"""What an architecture is, and how it says what it cannot take."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from torch import nn

from pcode.utils.errors import UserError
from pcode.utils.options import Option

DropRate = Annotated[float, Option("dropout probability", minimum=0)]


class UnfitInputsError(ValueError):
    """An architecture cannot take such samples.

    Args:
        takes: what it takes, to be read after "takes".
    """


@dataclass(frozen=True)
class Architecture:
    """How a model is made, and for what.

    Attributes:
        build: build(input_shape, num_classes, **flags) gives the model on torch's default device,
            with initial parameters drawn from torch's default generator. `input_shape` is that of
            one sample: (channels, height, width), (features,), or () for words; `num_classes` the
            number of classes, or of words in the vocabulary. It raises UnfitInputsError where
            samples of that shape do not fit, and UserError where a flag is out of its range.
        task: "classification" (outputs are N x num_classes) or "language" (see rnn_lm.py).
    """

    build: Callable[..., nn.Module]
    task: str = "classification"


def check_at_least_one(**flags: int) -> None:
    """Validate counts."""
    for name, value in flags.items():
        if value < 1:
            raise UserError(f"--{name} {value}: at least 1")


def check_drop_rate(drop_rate: float) -> None:
    """Validate a probability of dropping, which does not drop all."""
    if not 0 <= drop_rate < 1:
        raise UserError(f"--drop_rate {drop_rate}: from 0 to below 1")
