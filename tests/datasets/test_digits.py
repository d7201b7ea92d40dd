"""The embedded data set."""

from __future__ import annotations

import pytest
import torch

from pcode.datasets import load_dataset
from pcode.datasets.base import Order
from pcode.datasets.digits import load_digits_dataset
from pcode.datasets.in_memory import InMemory
from pcode.utils.errors import UserError

# The first twenty labels of each part, as they were when the split was settled.
FIRST_TEST_TARGETS = [1, 3, 6, 4, 6, 8, 6, 6, 5, 1, 0, 2, 7, 8, 3, 9, 1, 2, 8, 2]
FIRST_TRAIN_TARGETS = [0, 2, 4, 5, 7, 8, 9, 0, 1, 2, 3, 5, 7, 9, 0, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def digits() -> InMemory:
    return load_digits_dataset()


def test_shapes_and_types(digits: InMemory) -> None:
    assert (digits.name, digits.num_classes) == ("digits", 10)
    assert digits.input_shape == (1, 8, 8)
    assert digits.train_inputs.shape == (1437, 1, 8, 8)
    assert digits.test_inputs.shape == (360, 1, 8, 8)
    assert digits.train_inputs.dtype == digits.test_inputs.dtype == torch.float32
    assert digits.train_targets.dtype == digits.test_targets.dtype == torch.int64


def test_inputs_are_normalised_by_the_training_set(digits: InMemory) -> None:
    assert digits.train_inputs.mean().item() == pytest.approx(0, abs=1e-6)
    assert digits.train_inputs.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert digits.test_inputs.mean().item() != pytest.approx(0, abs=1e-6)


def test_the_split_is_stratified(digits: InMemory) -> None:
    in_test = torch.bincount(digits.test_targets, minlength=10)
    in_train = torch.bincount(digits.train_targets, minlength=10)
    assert (in_test - (in_test + in_train) / 5).abs().max() < 1


def test_every_digit_is_in_one_part(digits: InMemory) -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    pixels = torch.tensor(sklearn_datasets.load_digits().data)
    inputs = torch.cat([digits.train_inputs, digits.test_inputs]).flatten(1).double()
    low, high = inputs.min(), inputs.max()
    restored = ((inputs - low) / (high - low) * 16).round()
    assert sorted(map(tuple, restored.tolist())) == sorted(map(tuple, pixels.tolist()))


def test_the_split_never_changes(digits: InMemory) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        again = load_digits_dataset()
    assert torch.equal(again.train_inputs, digits.train_inputs)
    assert torch.equal(again.test_targets, digits.test_targets)
    assert digits.test_targets[:20].tolist() == FIRST_TEST_TARGETS
    assert digits.train_targets[:20].tolist() == FIRST_TRAIN_TARGETS


def test_batches_are_the_samples_of_their_positions(digits: InMemory) -> None:
    share = torch.arange(40, 88)
    batches = list(digits.train_batches(share, 3, 16, Order(6, 0, 0)))
    assert [len(targets) for _, targets in batches] == [16, 16, 16]
    drawn = {tuple(image.flatten().tolist()) for inputs, _ in batches for image in inputs}
    assert drawn == {tuple(image.flatten().tolist()) for image in digits.train_inputs[40:88]}


@pytest.mark.parametrize("num_parts", [1, 3, 361])
def test_the_shares_of_the_test_set_are_all_of_it(digits: InMemory, num_parts: int) -> None:
    parts = [list(digits.test_batches(part, num_parts)) for part in range(num_parts)]
    labels = torch.cat([targets for part in parts for _, targets in part])
    assert torch.equal(labels.sort().values, digits.test_targets.sort().values)
    sizes = [sum(len(targets) for _, targets in part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="--data 'digit' is not known; built: digits"):
        load_dataset("digit", {})


def test_a_data_set_without_parameters_is_given_none() -> None:
    with pytest.raises(UserError, match="--data digits:3: digits takes no parameters"):
        load_dataset("digits:3", {})
