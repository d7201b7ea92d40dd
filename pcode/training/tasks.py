"""What a model is trained for: how it is applied to a batch, and what its quality is called."""

import math
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from pcode.utils.errors import DivergenceError

# exp(x) is beyond float64 from here on.
LARGEST_EXPONENT = 709.0


class Task(ABC):
    """A task; every loss is the cross-entropy of its outputs.

    Attributes:
        metric: the quality's name in records: "test_METRIC".
        label: the same for people.
        unit: of a figure, after it.
        higher_is_better: whether a larger figure is a better one.
    """

    metric: ClassVar[str]
    label: ClassVar[str]
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool]

    @abstractmethod
    def forward(
        self, model: nn.Module, inputs: torch.Tensor, carried: Any
    ) -> tuple[torch.Tensor, Any]:
        """Outputs (..., classes), and what is carried to the next batch.

        Args:
            carried: from the batch before; None at the first of an epoch.
        """

    @abstractmethod
    def figure(self, correct: float, loss: float, count: float) -> float:
        """The quality, from the number of correct predictions and the summed loss of `count`."""

    def text(self, figure: float) -> str:
        return f"{figure:.2f}{self.unit}"

    def best(self, one: float, other: float) -> float:
        return max(one, other) if self.higher_is_better else min(one, other)

    def worst(self, figures: list[float]) -> float:
        return min(figures) if self.higher_is_better else max(figures)


class Classification(Task):
    """Images or vectors to classes; top-1 accuracy in %."""

    metric, label, unit, higher_is_better = "top1", "top-1", " %", True

    def forward(
        self, model: nn.Module, inputs: torch.Tensor, carried: Any
    ) -> tuple[torch.Tensor, Any]:
        return model(inputs), None

    def figure(self, correct: float, loss: float, count: float) -> float:
        return 100 * correct / count


class Language(Task):
    """The next word at each place of a text; perplexity, exp(mean loss of a word).

    The model's state is carried from window to window, without its gradient (truncated
    backpropagation through time).
    """

    metric, label, higher_is_better = "perplexity", "perplexity", False

    def forward(
        self, model: nn.Module, inputs: torch.Tensor, carried: Any
    ) -> tuple[torch.Tensor, Any]:
        if carried is not None:
            carried = tuple(part.detach() for part in carried)
        outputs, carried = model(inputs, carried)
        return outputs, carried

    def figure(self, correct: float, loss: float, count: float) -> float:
        mean = loss / count
        if mean > LARGEST_EXPONENT:
            raise DivergenceError(f"the test loss is {mean:.3g} a word")
        return math.exp(mean)


TASKS: dict[str, Task] = {"classification": Classification(), "language": Language()}


def cross_entropy(
    outputs: torch.Tensor, targets: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    """Of outputs (..., classes) and targets (...), in float32."""
    return functional.cross_entropy(
        outputs.flatten(0, -2).float(), targets.flatten(), reduction=reduction
    )


def autocast(amp: str | None, device: torch.device) -> AbstractContextManager[object]:
    """What a model is called in: torch.autocast to "bf16" or "fp16", or nothing."""
    if amp is None:
        return nullcontext()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[amp])
