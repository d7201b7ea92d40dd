"""CIFAR, MNIST, SVHN and STL-10 from small files in their own formats."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from pcode.datasets import load_dataset
from pcode.datasets.base import Order
from pcode.datasets.in_memory import InMemory
from pcode.datasets.pickled import load_arrays
from pcode.utils.errors import UserError
from tests.datasets import published
from tests.datasets.published import Array

Part = tuple[Array, Array]
Write = Callable[[Path, Part, Part], None]


def load(name: str, folder: Path) -> InMemory:
    dataset = load_dataset(name, {"data_dir": str(folder), "download": False})
    assert isinstance(dataset, InMemory)
    return dataset


def write_cifar10(folder: Path, train: Part, test: Part) -> None:
    published.write_cifar10(folder, *train, test)


def write_cifar100(folder: Path, train: Part, test: Part) -> None:
    for part, content in (("train", train), ("test", test)):
        published.write_cifar(folder / "cifar-100-python" / part, *content, "fine_labels")


def write_mnist(folder: Path, train: Part, test: Part) -> None:
    published.write_mnist(folder, "train", *train)
    published.write_mnist(folder, "t10k", *test)


def write_packed_mnist(folder: Path, train: Part, test: Part) -> None:
    published.write_mnist(folder, "train", *train, packed=True)
    published.write_mnist(folder, "t10k", *test, packed=True)


def write_svhn(folder: Path, train: Part, test: Part) -> None:
    published.write_svhn(folder, "train", *train)
    published.write_svhn(folder, "test", *test)


def write_stl(folder: Path, train: Part, test: Part) -> None:
    published.write_stl(folder, "train", *train)
    published.write_stl(folder, "test", *test)


CASES: list[tuple[str, Write, tuple[int, ...], int]] = [
    ("cifar10", write_cifar10, (3, 32, 32), 10),
    ("cifar100", write_cifar100, (3, 32, 32), 100),
    ("mnist", write_mnist, (1, 28, 28), 10),
    ("mnist", write_packed_mnist, (1, 28, 28), 10),
    ("svhn", write_svhn, (3, 32, 32), 10),
    ("stl10", write_stl, (3, 96, 96), 10),
]


@pytest.mark.parametrize(("name", "write", "shape", "num_classes"), CASES)
def test_what_was_written_is_read(
    tmp_path: Path, name: str, write: Write, shape: tuple[int, ...], num_classes: int
) -> None:
    train = published.draw(20, shape, num_classes, seed=1)
    test = published.draw(7, shape, num_classes, seed=2)
    write(tmp_path, train, test)
    dataset = load(name, tmp_path)
    assert (dataset.name, dataset.num_classes, dataset.num_test) == (name, num_classes, 7)
    assert (dataset.task, dataset.labelled, dataset.input_shape) == ("classification", True, shape)
    assert dataset.train_inputs.dtype == dataset.test_inputs.dtype == torch.uint8
    assert dataset.train_targets.dtype == dataset.test_targets.dtype == torch.int64
    np.testing.assert_array_equal(dataset.train_inputs, train[0])
    np.testing.assert_array_equal(dataset.train_targets, train[1])
    np.testing.assert_array_equal(dataset.test_inputs, test[0])
    np.testing.assert_array_equal(dataset.test_targets, test[1])


@pytest.mark.parametrize(
    "arrange",
    [
        np.copy,
        lambda data: data.transpose(0, 2, 3, 1),
        list,
        lambda data: data.reshape(-1, 3, 1024),
        lambda data: data.reshape(1, -1, 3072),
        lambda data: data.reshape(-1, 1, 3072),
        np.ravel,
    ],
)
def test_cifar_in_other_arrangements(tmp_path: Path, arrange: Callable[[Array], Any]) -> None:
    """Images in other dimensions, channels first or last, labels of NumPy, keys of bytes."""
    images, labels = published.draw(20, (3, 32, 32), 10, seed=1)
    published.write_cifar10(tmp_path, images, labels, (images, labels))
    for file in (tmp_path / "cifar-10-batches-py").iterdir():
        content = load_arrays(file)
        data = content["data"].reshape(-1, 3, 32, 32)
        other = {b"data": arrange(data), b"labels": [np.int64(each) for each in content["labels"]]}
        file.write_bytes(pickle.dumps(other))
    dataset = load("cifar10", tmp_path)
    np.testing.assert_array_equal(dataset.train_inputs, images)
    np.testing.assert_array_equal(dataset.train_targets, labels)


@pytest.mark.parametrize(
    "shape", [(4, 32, 3, 32), (4, 1024, 3), (3072, 4), (4, 32, 96), (12, 1024)]
)
def test_cifar_that_would_be_scrambled_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images, labels = published.draw(20, (3, 32, 32), 10, seed=1)
    published.write_cifar10(tmp_path, images, labels, (images, labels))
    content = {"data": images[:4].reshape(shape), "labels": labels[:4].tolist()}
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(content))
    expected = r"data_batch_2 .*data of shape \(.*\); expected N x 3072.* N x 3 x 32 x 32 or N x 32"
    with pytest.raises(UserError, match=expected):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"data": np.zeros((1, 3072), np.uint8), "label": [1]}, "holds 'data, label', but no fine"),
        ({"targets": [1]}, "holds 'targets', but no fine_labels or labels"),
        ({"labels": [1], b"images": []}, "holds 'labels, images', but no data"),
        ({"labels": [1], "data": 3}, r"data of shape \(\); expected N x 3072"),
    ],
)
def test_what_a_file_of_cifar_lacks_is_named(
    tmp_path: Path, content: dict[str | bytes, Any], reason: str
) -> None:
    images, labels = published.draw(20, (3, 32, 32), 10, seed=1)
    published.write_cifar10(tmp_path, images, labels, (images, labels))
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=rf"data_batch_2 .*ValueError: .*{reason}"):
        load("cifar10", tmp_path)


@pytest.mark.parametrize(("name", "write", "shape", "num_classes"), CASES)
def test_batches_are_normalised_by_the_training_set_and_augmented_where_usual(
    tmp_path: Path, name: str, write: Write, shape: tuple[int, ...], num_classes: int
) -> None:
    train = published.draw(20, shape, num_classes, seed=1)
    test = published.draw(7, shape, num_classes, seed=2)
    write(tmp_path, train, test)
    dataset = load(name, tmp_path)
    pixels = train[0].astype(np.float64)
    mean, deviation = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3))

    def normalised(images: Array) -> torch.Tensor:
        values = (images - mean[:, None, None]) / deviation[:, None, None]
        return torch.from_numpy(values.astype(np.float32))

    ((inputs, targets),) = dataset.test_batches()
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs, normalised(test[0]), rtol=0, atol=1e-6)
    assert targets.tolist() == test[1].tolist()

    ((inputs, targets),) = dataset.read([torch.arange(20)], [5])
    assert targets.tolist() == train[1].tolist()
    as_stored = torch.isclose(inputs, normalised(train[0]), rtol=0, atol=1e-6).flatten(1).all(1)
    # Of twenty images one or another may well be drawn uncropped; all of them never are.
    assert bool(as_stored.all()) == (name in {"mnist", "svhn"})


@pytest.mark.parametrize(
    ("name", "write", "shape", "most"),
    [
        ("cifar10", write_cifar10, (3, 32, 32), 4),
        ("cifar100", write_cifar100, (3, 32, 32), 4),
        ("mnist", write_mnist, (1, 28, 28), 0),
        ("svhn", write_svhn, (3, 32, 32), 0),
        ("stl10", write_stl, (3, 96, 96), 12),
    ],
)
def test_crops_are_shifted_by_as_much_as_is_usual(
    tmp_path: Path, name: str, write: Write, shape: tuple[int, ...], most: int
) -> None:
    """Of images without a black pixel: the black rows and columns are those around them."""
    images, labels = published.draw(20, shape, 10, seed=1)
    part = np.maximum(images, 1), labels
    write(tmp_path, part, part)
    pixels = part[0].astype(np.float64)
    black = torch.from_numpy(-pixels.mean((0, 2, 3)) / pixels.std((0, 2, 3))).view(-1, 1, 1)
    batches = load(name, tmp_path).read([torch.arange(20)] * 20, range(20))
    outside = [torch.isclose(inputs.double(), black, atol=1e-4) for inputs, _ in batches]
    inside = ~torch.cat(outside).all(1)
    for shifts in ((~inside.any(1)).sum(1), (~inside.any(2)).sum(1)):
        assert (int(shifts.min()), int(shifts.max())) == (0, most)


@pytest.fixture
def cifar(tmp_path: Path) -> InMemory:
    write_cifar10(
        tmp_path,
        published.draw(50, (3, 32, 32), 10, seed=1),
        published.draw(23, (3, 32, 32), 10, seed=2),
    )
    return load("cifar10", tmp_path)


def test_an_epochs_batches_depend_on_seed_rank_and_epoch_alone(cifar: InMemory) -> None:
    def inputs(seed: int, rank: int, epoch: int) -> torch.Tensor:
        batches = cifar.train_batches(torch.arange(50), 3, 16, Order(seed, rank, epoch))
        return torch.cat([inputs for inputs, _ in batches])

    first = inputs(1, 0, 0)
    assert first.shape == (48, 3, 32, 32)
    torch.rand(3)
    assert torch.equal(inputs(1, 0, 0), first)
    for other in ((2, 0, 0), (1, 1, 0), (1, 0, 1)):
        assert not torch.equal(inputs(*other), first)


def test_a_sample_is_augmented_anew_each_time(cifar: InMemory) -> None:
    one = torch.zeros(1, dtype=torch.int64)
    inputs = [inputs for inputs, _ in cifar.read([one] * 6, range(6))]
    assert any(not torch.equal(inputs[0], other) for other in inputs[1:])


@pytest.mark.parametrize("num_parts", [1, 2, 5, 30])
def test_shares_cover_the_test_set_once(cifar: InMemory, num_parts: int) -> None:
    ((whole, labels),) = cifar.test_batches()
    sizes, seen = [], []
    for part in range(num_parts):
        batches = list(cifar.test_batches(part, num_parts))
        sizes.append(sum(len(targets) for _, targets in batches))
        seen += [
            (*image.flatten()[:9].tolist(), target)
            for inputs, targets in batches
            for image, target in zip(inputs, targets.tolist(), strict=True)
        ]
    assert max(sizes) - min(sizes) <= 1
    expected = zip(whole.flatten(1)[:, :9].tolist(), labels.tolist(), strict=True)
    assert sorted(seen) == sorted((*image, target) for image, target in expected)


def test_what_is_not_there_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        load("mnist", tmp_path / "nowhere")
    message = str(refusal.value)
    assert "\n" not in message
    assert "--data mnist" in message
    assert f"--data_dir {tmp_path / 'nowhere'}" in message
    assert "--download True" in message
    assert "MNIST/raw/t10k-labels-idx1-ubyte" in message
    assert not (tmp_path / "nowhere").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("<html>\n404\n</html>\n" * 9)


@pytest.mark.parametrize("damage", [cut, empty, text])
@pytest.mark.parametrize(
    "case",
    [
        ("cifar10", write_cifar10, (3, 32, 32), "cifar-10-batches-py/data_batch_3"),
        ("cifar100", write_cifar100, (3, 32, 32), "cifar-100-python/test"),
        ("mnist", write_mnist, (1, 28, 28), "MNIST/raw/train-images-idx3-ubyte"),
        ("mnist", write_packed_mnist, (1, 28, 28), "MNIST/raw/t10k-images-idx3-ubyte.gz"),
        ("svhn", write_svhn, (3, 32, 32), "train_32x32.mat"),
        ("stl10", write_stl, (3, 96, 96), "stl10_binary/test_X.bin"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(
    tmp_path: Path, case: tuple[str, Write, tuple[int, ...], str], damage: Callable[[Path], None]
) -> None:
    name, write, shape, file = case
    train, test = (published.draw(10, shape, 10, seed) for seed in (1, 2))
    write(tmp_path, train, test)
    damage(tmp_path / file)
    with pytest.raises(UserError) as refusal:
        load(name, tmp_path)
    assert str(tmp_path / file) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_matlab_file_of_something_else_than_numbers(tmp_path: Path) -> None:
    """A cell may hold any number of arrays, and counts as one."""
    train, test = (published.draw(10, (3, 32, 32), 10, seed) for seed in (1, 2))
    write_svhn(tmp_path, train, test)
    cell = np.empty(1, dtype=object)
    cell[0] = np.zeros(1 << 20)
    file = tmp_path / "train_32x32.mat"
    savemat(file, {"X": cell, "y": train[1][:, None]}, do_compression=True)
    with pytest.raises(UserError, match=r"train_32x32.mat .*something else than numbers"):
        load("svhn", tmp_path)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    images, labels = published.draw(10, (3, 96, 96), 10, seed=1)
    write_stl(tmp_path, (images, labels + 3), (images, labels))
    with pytest.raises(UserError, match=r"train_y.bin .* where there are 10"):
        load("stl10", tmp_path)
    write_stl(tmp_path, (images, labels[:9]), (images, labels))
    with pytest.raises(UserError, match=r"train_y.bin .*10 images and labels of shape \(9,\)"):
        load("stl10", tmp_path)


def test_images_for_testing_of_another_shape_are_refused(tmp_path: Path) -> None:
    train, test = (published.draw(10, (1, side, side), 10, seed=1) for side in (28, 20))
    write_mnist(tmp_path, train, test)
    with pytest.raises(UserError, match=r"^--data mnist: .* 1 x 28 x 28, .* 1 x 20 x 20") as caught:
        load("mnist", tmp_path)
    assert "\n" not in str(caught.value)
    colours = published.draw(10, (3, 32, 32), 10, seed=1)
    write_svhn(tmp_path, colours, (colours[0][:, :2], colours[1]))
    with pytest.raises(UserError, match=r"^--data svhn: .* 3 x 32 x 32, .* 2 x 32 x 32"):
        load("svhn", tmp_path)


@pytest.mark.parametrize("shape", [(10, 28), (10, 28, 28, 1), (10, 0, 28)])
def test_an_array_that_holds_no_images_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    part = published.draw(10, (1, 28, 28), 10, seed=1)
    write_mnist(tmp_path, part, part)
    file = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(published.idx(np.zeros(shape)))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte .* is not images"):
        load("mnist", tmp_path)


def test_torchvision_is_not_imported_to_read(tmp_path: Path) -> None:
    part = published.draw(10, (3, 32, 32), 10, seed=1)
    write_cifar10(tmp_path, part, part)
    program = (
        "import sys; from pcode.datasets import load_dataset; "
        f"load_dataset('cifar10', {{'data_dir': {str(tmp_path)!r}, 'download': False}}); "
        "sys.exit('torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
