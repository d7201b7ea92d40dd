"""Evaluation against the same numbers worked out with NumPy from the nodes' models."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from pcode.communication import Communicator, Simulation
from pcode.datasets import Batches
from pcode.datasets.digits import load_digits_dataset
from pcode.datasets.in_memory import InMemory
from pcode.training.evaluation import Evaluation, average_model, evaluate

DIGITS = load_digits_dataset()
NUM_NODES = 3
Array = npt.NDArray[np.float64]


class Normalised(nn.Module):
    """A linear classifier behind batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.linear(self.norm(inputs.flatten(1)))
        return outputs


def running_mean(model: Normalised) -> torch.Tensor:
    mean = model.norm.running_mean
    assert mean is not None
    return mean


def linear(rank: int) -> Normalised:
    model = Normalised()
    draw = np.random.default_rng(rank)
    with torch.no_grad():
        for tensor in [*model.parameters(), running_mean(model)]:
            tensor.copy_(torch.tensor(draw.normal(size=tensor.shape)))
    return model


def top1(vectors: list[Array], mean: Array) -> float:
    """% of the test set, from [scale, shift, weight, bias] and the running mean, variance 1."""
    scale, shift, weight, bias = vectors
    inputs = DIGITS.test_inputs.numpy().reshape(-1, 64).astype(float)
    hidden = (inputs - mean) / np.sqrt(1 + 1e-5) * scale + shift
    predicted = (hidden @ weight.T + bias).argmax(axis=1)
    return 100 * float((predicted == DIGITS.test_targets.numpy()).mean())


def arrays(model: Normalised) -> list[Array]:
    return [p.detach().double().numpy() for p in model.parameters()]


def evaluated() -> tuple[list[Evaluation], list[Array], Array]:
    def node(communicator: Communicator) -> Evaluation:
        model = linear(communicator.rank).train()
        before = [p.clone() for p in model.state_dict().values()]
        result = evaluate(model, DIGITS, communicator, averaged=True, consensus=True)
        assert model.training
        after = model.state_dict().values()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        return result

    results = Simulation(NUM_NODES).run(node)
    models = [linear(rank) for rank in range(NUM_NODES)]
    mean = [np.mean(tensors, axis=0) for tensors in zip(*map(arrays, models), strict=True)]
    running = np.mean([running_mean(model).numpy() for model in models], axis=0)
    return results, mean, running


def test_every_node_s_accuracy_and_that_of_the_averaged_model() -> None:
    results, mean, running = evaluated()
    models = [linear(rank) for rank in range(NUM_NODES)]
    want = [top1(arrays(model), running_mean(model).double().numpy()) for model in models]
    for result in results:
        assert np.allclose(result.per_node, want)
        assert np.isclose(result.mean, np.mean(want))
        assert result.averaged_model is not None
        assert np.isclose(result.averaged_model, top1(mean, running))


class Counted(InMemory):
    """Digits, with the number of test samples that have been read."""

    def __init__(self) -> None:
        self.__dict__.update(DIGITS.__dict__)
        self.num_read = 0

    def test_batches(self, part: int = 0, num_parts: int = 1) -> Batches:
        for inputs, targets in super().test_batches(part, num_parts):
            self.num_read += len(targets)
            yield inputs, targets


def test_the_nodes_share_the_averaged_model_s_evaluation() -> None:
    def node(communicator: Communicator) -> int:
        counted = Counted()
        model = linear(communicator.rank)
        evaluate(model, counted, communicator, averaged=True, consensus=False)
        return counted.num_read

    own = DIGITS.num_test
    assert Simulation(NUM_NODES).run(node) == [own + own // NUM_NODES] * NUM_NODES


def test_consensus_distance_is_the_root_mean_square_distance_from_the_mean() -> None:
    results, mean, _ = evaluated()
    squares = [
        sum(((own - middle) ** 2).sum() for own, middle in zip(arrays(m), mean, strict=True))
        for m in map(linear, range(NUM_NODES))
    ]
    for result in results:
        assert result.consensus_distance is not None
        assert np.isclose(result.consensus_distance, np.sqrt(np.mean(squares)), rtol=1e-6)


def test_average_model_gives_all_nodes_the_mean() -> None:
    def node(communicator: Communicator) -> list[Array]:
        model = linear(communicator.rank)
        average_model(model, communicator)
        return [*arrays(model), running_mean(model).double().numpy()]

    _, mean, running = evaluated()
    for got in Simulation(NUM_NODES).run(node):
        for ours, want in zip(got, [*mean, running], strict=True):
            assert np.allclose(ours, want, rtol=1e-6, atol=1e-7)
