"""What a model is trained for: how it is applied to a batch, and what its quality is called."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from pcode.utils.errors import DivergenceError


@dataclass(frozen=True)
class Task:
    """A task; every loss is the cross-entropy of its outputs.

    Attributes:
        metric: the quality's name in records: "test_METRIC".
        label: the same for people.
        unit: of a figure, after it.
        higher_is_better: whether a larger figure is a better one.
        forward: called with a model, inputs and what is carried from the batch before (None at the
            first of an epoch); returns outputs (..., classes) and what is carried to the next.
        figure: the quality, from the number of correct predictions, the summed loss, and the count
            of predictions.
    """

    metric: str
    label: str
    unit: str
    higher_is_better: bool
    forward: Callable[[nn.Module, torch.Tensor, Any], tuple[torch.Tensor, Any]]
    figure: Callable[[float, float, float], float]

    def text(self, figure: float) -> str:
        return f"{figure:.2f}{self.unit}"

    def best(self, one: float, other: float) -> float:
        return max(one, other) if self.higher_is_better else min(one, other)

    def worst(self, figures: list[float]) -> float:
        return min(figures) if self.higher_is_better else max(figures)


def _forward_language(
    model: nn.Module, inputs: torch.Tensor, carried: Any
) -> tuple[torch.Tensor, Any]:
    """Carry the state from window to window, without its gradient: truncated backpropagation."""
    if carried is not None:
        carried = tuple(part.detach() for part in carried)
    outputs, carried = model(inputs, carried)
    return outputs, carried


def _perplexity(correct: float, loss: float, count: float) -> float:
    """exp(mean loss of a word)."""
    try:
        return math.exp(loss / count)
    except OverflowError:
        raise DivergenceError(f"the test loss is {loss / count:.3g} a word") from None


TASKS = {
    # Images or vectors to classes.
    "classification": Task(
        metric="top1",
        label="top-1",
        unit=" %",
        higher_is_better=True,
        forward=lambda model, inputs, carried: (model(inputs), None),
        figure=lambda correct, loss, count: 100 * correct / count,
    ),
    # The next word at each place of a text.
    "language": Task("perplexity", "perplexity", "", False, _forward_language, _perplexity),
}


def cross_entropy(
    outputs: torch.Tensor, targets: torch.Tensor, reduction: str = "mean"
) -> torch.Tensor:
    """Compute that of outputs (..., classes) and targets (...), in float32."""
    return functional.cross_entropy(
        outputs.flatten(0, -2).float(), targets.flatten(), reduction=reduction
    )


def autocast(amp: str | None, device: torch.device) -> AbstractContextManager[object]:
    """Return what a model is called in: torch.autocast to "bf16" or "fp16", or nothing."""
    if amp is None:
        return nullcontext()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[amp])
