"""What is measured, against NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from pcode.communication import Simulation
from pcode.datasets import Batches, Dataset
from pcode.training.evaluation import evaluate
from pcode.training.tasks import TASKS, cross_entropy
from pcode.utils.errors import DivergenceError

WORDS, COLUMNS, LENGTH, WINDOW = 7, 5, 12, 4


class Sentences(Dataset):
    """A text in columns, read in windows."""

    task = "language"
    labelled = False
    name, input_shape, num_classes = "sentences", (), WORDS

    def __init__(self) -> None:
        draw = np.random.default_rng(1)
        self.text = torch.from_numpy(draw.integers(0, WORDS, (COLUMNS, LENGTH + 1)))
        self.train_targets = torch.zeros(COLUMNS, dtype=torch.int64)
        self.num_test = COLUMNS * LENGTH

    def read(self, batches: Sequence[torch.Tensor], seeds: Sequence[int]) -> Batches:
        raise NotImplementedError

    def test_batches(self, part: int = 0, num_parts: int = 1) -> Batches:
        mine = self.text[part::num_parts]
        for start in range(0, LENGTH if len(mine) else 0, WINDOW):
            end = start + WINDOW
            yield mine[:, start:end], mine[:, start + 1 : end + 1]


class Counting(nn.Module):
    """Logits are scale * (how often each word of the vocabulary has come so far in the column)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(
        self, words: torch.Tensor, state: tuple[torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor]]:
        seen = torch.zeros(len(words), WORDS) if state is None else state[0]
        counts = seen[:, None] + nn.functional.one_hot(words, WORDS).cumsum(dim=1)
        return self.scale * counts, (counts[:, -1],)


def perplexity(scale: float) -> float:
    """Of the whole text, column by column, in NumPy."""
    losses = []
    for column in Sentences().text.numpy():
        counts = np.zeros(WORDS)
        for word, following in pairwise(column):
            counts[word] += 1
            logits = scale * counts
            losses.append(np.log(np.exp(logits).sum()) - logits[following])
    return math.exp(np.mean(losses))


def test_perplexity_of_each_node_and_of_the_averaged_model() -> None:
    scales = [0.0, 0.5, -1.0, 0.2, 0.1, 0.3, 0.4]  # more nodes than columns of the text
    results = Simulation(len(scales)).run(
        lambda node: evaluate(
            Counting(scales[node.rank]), Sentences(), node, averaged=True, consensus=False
        )
    )
    want = [perplexity(scale) for scale in scales]
    assert want[0] == pytest.approx(WORDS)
    for result in results:
        assert result.per_node == pytest.approx(want, rel=1e-5)
        assert result.mean == pytest.approx(np.mean(want), rel=1e-5)
        assert result.averaged_model == pytest.approx(perplexity(float(np.mean(scales))), rel=1e-5)


def test_the_gradient_stops_where_a_window_begins() -> None:
    task, model = TASKS["language"], Counting(0.5)
    text = Sentences().text
    _, carried = task.forward(model, text[:, :4] * 1, None)
    carried = (carried[0].requires_grad_(),)
    outputs, _ = task.forward(model, text[:, 4:8], carried)
    cross_entropy(outputs, text[:, 5:9]).backward()
    assert carried[0].grad is None


def test_the_worst_and_the_best_node() -> None:
    assert TASKS["classification"].worst([90.0, 80.0]) == 80
    assert TASKS["classification"].best(90.0, 80.0) == 90
    assert TASKS["language"].worst([90.0, 80.0]) == 90
    assert TASKS["language"].best(90.0, 80.0) == 80


def test_a_perplexity_beyond_all_numbers_is_divergence() -> None:
    with pytest.raises(DivergenceError, match="test loss is 800"):
        TASKS["language"].figure(0, 8000.0, 10)
