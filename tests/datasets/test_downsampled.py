"""Downsampled ImageNet from small files in its own format."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from pcode.datasets import load_dataset
from pcode.datasets.in_memory import InMemory
from pcode.utils.errors import UserError
from tests.datasets import published
from tests.datasets.published import Array

SIZES = (8, 16, 32, 64)


def write(folder: Path, size: int, *, npz: bool = False) -> tuple[Array, Array, Array, Array]:
    """Two images in each of the ten files and seven for testing; what they hold."""
    shape = (3, size, size)
    images, labels = published.draw(20, shape, 1000, seed=1)
    test_images, test_labels = published.draw(7, shape, 1000, seed=2)
    for number in range(10):
        mine = slice(2 * number, 2 * number + 2)
        file = f"train_data_batch_{number + 1}"
        published.write_downsampled(folder, file, images[mine], labels[mine], npz=npz)
    published.write_downsampled(folder, "val_data", test_images, test_labels, npz=npz)
    return images, labels, test_images, test_labels


def load(size: int, folder: Path) -> InMemory:
    dataset = load_dataset(f"imagenet{size}", {"data_dir": str(folder)})
    assert isinstance(dataset, InMemory)
    return dataset


@pytest.mark.parametrize("npz", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read(tmp_path: Path, size: int, npz: bool) -> None:
    images, labels, test_images, test_labels = write(tmp_path / f"imagenet{size}", size, npz=npz)
    dataset = load(size, tmp_path)
    assert (dataset.num_classes, dataset.num_test) == (1000, 7)
    assert dataset.input_shape == (3, size, size)
    assert dataset.train_inputs.dtype == torch.uint8
    assert dataset.train_targets.dtype == torch.int64
    np.testing.assert_array_equal(dataset.train_inputs, images)
    np.testing.assert_array_equal(dataset.train_targets, labels)
    np.testing.assert_array_equal(dataset.test_inputs, test_images)
    np.testing.assert_array_equal(dataset.test_targets, test_labels)


@pytest.mark.parametrize("size", SIZES)
def test_crops_are_shifted_by_at_most_an_eighth(tmp_path: Path, size: int) -> None:
    write(tmp_path / f"imagenet{size}", size)
    dataset = load(size, tmp_path)
    # In a white image the zeros that a crop brings in show how far it was shifted.
    dataset.train_inputs.fill_(255)
    one = torch.zeros(400, dtype=torch.int64)
    ((inputs, _),) = dataset.read([one], [1])
    dark = inputs[:, 0] < inputs[:, 0].amax()
    shifts = torch.cat([dark[:, size // 2].sum(1), dark[:, :, size // 2].sum(1)])
    assert sorted(set(shifts.tolist())) == list(range(size // 8 + 1))


def test_missing_files_are_named_in_one_line(tmp_path: Path) -> None:
    write(tmp_path / "imagenet8", 8)
    (tmp_path / "imagenet8" / "train_data_batch_10").unlink()
    with pytest.raises(UserError) as refusal:
        load(8, tmp_path)
    message = str(refusal.value)
    assert "\n" not in message
    assert "--data imagenet8: train_data_batch_10 not found" in message
    assert f"{tmp_path / 'imagenet8'}" in message
    assert "--data_dir" in message


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "imagenet16", 8)
    with pytest.raises(UserError, match=r"train_data_batch_1 .* is damaged"):
        load(16, tmp_path)


@pytest.mark.parametrize("label", [-1, 1000])
def test_labels_run_from_1_to_1000(tmp_path: Path, label: int) -> None:
    folder = tmp_path / "imagenet8"
    images, *_ = write(folder, 8)
    published.write_downsampled(folder, "val_data", images[:2], np.array([5, label]))
    with pytest.raises(UserError, match=r"val_data .* is damaged"):
        load(8, tmp_path)


def test_arrays_of_objects_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet8"
    write(folder, 8, npz=True)
    np.savez(folder / "val_data", data=np.array([{}], dtype=object), labels=np.ones(1))
    with pytest.raises(UserError, match=r"val_data.npz .*allow_pickle=False"):
        load(8, tmp_path)


def test_a_label_of_a_byte_is_no_other_one(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet8"
    images, *_ = write(folder, 8, npz=True)
    data = images[:2].reshape(2, -1)
    np.savez(folder / "val_data.npz", data=data, labels=np.array([0, 5], np.uint8))
    with pytest.raises(UserError, match=r"classes from -1 to 4"):
        load(8, tmp_path)


class Harmful:
    """Pickled, it is a call of open."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def test_a_file_runs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet8"
    write(folder, 8)
    (folder / "val_data").write_bytes(pickle.dumps({"data": Harmful(tmp_path / "made")}))
    with pytest.raises(UserError, match=r"val_data .*only arrays are opened"):
        load(8, tmp_path)
    assert not (tmp_path / "made").exists()
