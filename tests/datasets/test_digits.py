"""The embedded data set."""

from __future__ import annotations

import pytest
import torch

from pcode.datasets import PLANNED, Dataset, load_dataset
from pcode.errors import UserError

# The first twenty labels of each part, as they were when the split was settled.
FIRST_TEST_TARGETS = [1, 3, 6, 4, 6, 8, 6, 6, 5, 1, 0, 2, 7, 8, 3, 9, 1, 2, 8, 2]
FIRST_TRAIN_TARGETS = [0, 2, 4, 5, 7, 8, 9, 0, 1, 2, 3, 5, 7, 9, 0, 1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits", "nowhere")


def test_shapes_and_types(digits: Dataset) -> None:
    assert (digits.name, digits.num_classes) == ("digits", 10)
    assert (digits.num_channels, digits.image_size) == (1, 8)
    assert digits.train_inputs.shape == (1437, 1, 8, 8)
    assert digits.test_inputs.shape == (360, 1, 8, 8)
    assert digits.train_inputs.dtype == digits.test_inputs.dtype == torch.float32
    assert digits.train_targets.dtype == digits.test_targets.dtype == torch.int64


def test_inputs_are_normalised_by_the_training_set(digits: Dataset) -> None:
    assert digits.train_inputs.mean().item() == pytest.approx(0, abs=1e-6)
    assert digits.train_inputs.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert digits.test_inputs.mean().item() != pytest.approx(0, abs=1e-6)


def test_the_split_is_stratified(digits: Dataset) -> None:
    in_test = torch.bincount(digits.test_targets, minlength=10)
    in_train = torch.bincount(digits.train_targets, minlength=10)
    assert (in_test - (in_test + in_train) / 5).abs().max() < 1


def test_every_digit_is_in_one_part(digits: Dataset) -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    pixels = torch.tensor(sklearn_datasets.load_digits().data)
    inputs = torch.cat([digits.train_inputs, digits.test_inputs]).flatten(1).double()
    low, high = inputs.min(), inputs.max()
    restored = ((inputs - low) / (high - low) * 16).round()
    assert sorted(map(tuple, restored.tolist())) == sorted(map(tuple, pixels.tolist()))


def test_the_split_never_changes(digits: Dataset) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        again = load_dataset("digits", "elsewhere")
    assert torch.equal(again.train_inputs, digits.train_inputs)
    assert torch.equal(again.test_targets, digits.test_targets)
    assert digits.test_targets[:20].tolist() == FIRST_TEST_TARGETS
    assert digits.train_targets[:20].tolist() == FIRST_TRAIN_TARGETS


@pytest.mark.parametrize("name", PLANNED)
def test_a_planned_data_set_is_refused_as_such(name: str) -> None:
    with pytest.raises(UserError, match=f"--data '{name}' is not built yet; built: digits"):
        load_dataset(name, "nowhere")


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="--data 'digit' is not known; built: digits"):
        load_dataset("digit", "nowhere")
