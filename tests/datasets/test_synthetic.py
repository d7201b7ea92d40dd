"""Drawn data sets."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pcode.datasets import load_dataset
from pcode.datasets.base import Order
from pcode.datasets.in_memory import InMemory
from pcode.utils.errors import UserError

FLAGS = {"rnn_bptt_len": 5, "batch_size": 4, "n_mpi_process": 2}


def load(name: str) -> InMemory:
    dataset = load_dataset(name, FLAGS)
    assert isinstance(dataset, InMemory)
    return dataset


@pytest.mark.parametrize(
    ("name", "shape", "num_classes", "sizes"),
    [
        ("synthetic", (3, 32, 32), 10, (2560, 512)),
        ("synthetic:", (3, 32, 32), 10, (2560, 512)),
        ("synthetic:1x9x6", (1, 9, 6), 10, (2560, 512)),
        ("synthetic:3x16x16:7", (3, 16, 16), 7, (2560, 512)),
        ("synthetic:3x16x16:7:101", (3, 16, 16), 7, (101, 21)),
        ("synthetic:1x1x1:2:1", (1, 1, 1), 2, (1, 1)),
        ("synthetic:20:2:4096", (20,), 2, (4096, 820)),
        ("synthetic:2000", (2000,), 10, (2560, 512)),
    ],
)
def test_shape_classes_and_size(
    name: str, shape: tuple[int, ...], num_classes: int, sizes: tuple[int, int]
) -> None:
    dataset = load(name)
    assert dataset.task == "classification"
    assert (dataset.input_shape, dataset.num_classes) == (shape, num_classes)
    assert (len(dataset.train_targets), dataset.num_test) == sizes
    for inputs, targets, size in zip(
        (dataset.train_inputs, dataset.test_inputs),
        (dataset.train_targets, dataset.test_targets),
        sizes,
        strict=True,
    ):
        assert inputs.shape == (size, *shape)
        assert inputs.dtype == (torch.float32 if len(shape) == 1 else torch.uint8)
        assert targets.dtype == torch.int64
        counts = torch.bincount(targets, minlength=num_classes)
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("name", ["synthetic:1x8x8:3:64", "synthetic:12:3:64"])
def test_it_is_the_same_in_every_run(name: str) -> None:
    first = load(name)
    torch.rand(3)
    np.random.random(3)
    again = load(name)
    assert torch.equal(first.train_inputs, again.train_inputs)
    assert torch.equal(first.test_inputs, again.test_inputs)
    assert not torch.equal(first.train_inputs[:12], first.test_inputs[:12])


@pytest.mark.parametrize(
    ("name", "least"), [("synthetic:3x12x12:5:500", 0.9), ("synthetic:50:2:4096", 0.98)]
)
def test_it_is_learnable_from_augmented_batches(name: str, least: float) -> None:
    dataset = load(name)
    everyone = torch.arange(len(dataset.train_targets))
    ((inputs, targets),) = dataset.train_batches(everyone, 1, len(everyone), Order(1, 0, 0))
    model = LogisticRegression(max_iter=200).fit(inputs.flatten(1).numpy(), targets.numpy())
    right = sum(
        model.score(inputs.flatten(1).numpy(), targets.numpy()) * len(targets)
        for inputs, targets in dataset.test_batches()
    )
    assert right / dataset.num_test >= least


def test_images_are_augmented_for_training_alone() -> None:
    dataset = load("synthetic:3x16x16:2:40")
    ((one, _),) = dataset.read([torch.arange(40)], [1])
    ((other, _),) = dataset.read([torch.arange(40)], [2])
    assert not torch.equal(one, other)
    ((test, _),) = dataset.test_batches()
    assert torch.equal(test, next(iter(dataset.test_batches()))[0])


def test_text_is_made_elsewhere() -> None:
    dataset = load_dataset("synthetic:text:50:4000", FLAGS)
    assert (dataset.task, dataset.num_classes) == ("language", 50)
    assert load_dataset("synthetic:text", FLAGS).task == "language"


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("synthetic:3x32", "'3x32' is no shape"),
        ("synthetic:0x32x32", "'0x32x32' is no shape"),
        ("synthetic:cifar", "'cifar' is no shape"),
        ("synthetic:texts", "'texts' is no shape"),
        ("synthetic:3x32x32:", "'' is no number from 1 on"),
        ("synthetic:3x32x32:10:-5", "'-5' is no number from 1 on"),
        ("synthetic:3x32x32:10:1e4", "'1e4' is no number from 1 on"),
        ("synthetic:3x32x32:10:5:6", "4 parameters are too many"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(name: str, what: str) -> None:
    with pytest.raises(UserError) as refusal:
        load(name)
    message = str(refusal.value)
    assert message.startswith(f"--data {name}: {what}")
    assert "synthetic:3x32x32:10:2560" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        # Four samples of 3 x 99,999^2 bytes for training and one for testing.
        ("synthetic:3x99999x99999:2:4", "150.0"),
        ("synthetic:999999999999", "12,328,000.0"),  # 2,560 + 512 + 10 vectors of 4e12 bytes
        ("synthetic:3x32x32:99999999999", "4,800.0"),  # patterns of 3 x 4 x 4 bytes
        ("synthetic:3x32x32:10:99999999999", "369,600.0"),  # each with its class, 8 bytes
        (f"synthetic:1x1x{10**30}:1:1", "2,000,000"),
        ("synthetic:text:2:999999999", "60.0"),
    ],
)
def test_what_does_not_fit_into_memory_is_refused_in_one_line(
    name: str, gigabytes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"SC_PHYS_PAGES": 2_000_000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    with pytest.raises(UserError) as refusal:
        load_dataset(name, FLAGS)
    message = str(refusal.value)
    assert message.startswith(f"--data {name}: takes {gigabytes}")
    assert message.endswith(" GB of memory and this machine has 8.2 GB; give smaller sizes")
    assert "\n" not in message
