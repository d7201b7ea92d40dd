"""Runs on files in the formats in which real data sets are published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.datasets import published
from tests.run.runs import finished, write_rcv1

COMMON = ("--data_dir", "../data", "--n_mpi_process", "2", "--num_epochs", "1")


def digests(folder: Path, ways: Mapping[str, tuple[str, ...]], *flags: str) -> set[tuple[str, ...]]:
    """The nodes' digests in runs that differ in these flags; the files are in folder/data."""
    found: set[tuple[str, ...]] = set()
    for name, way in ways.items():
        (folder / name).mkdir()
        summary = finished(folder / name, *COMMON, *flags, *way)
        assert summary["num_steps"] == 2
        assert 0 <= summary["test_top1"] <= 100
        found.add(tuple(summary["parameters_sha256"]))
    return found


def test_cifar10_is_the_same_under_sim_and_mpi(tmp_path: Path) -> None:
    train, test = (published.draw(count, (3, 32, 32), 10, count) for count in (40, 20))
    published.write_cifar10(tmp_path / "data", *train, test)
    ways = {backend: ("--backend", backend) for backend in ("sim", "mpi")}
    flags = ("--data", "cifar10", "--arch", "resnet8", "--batch_size", "10", "--avg_model", "True")
    assert len(digests(tmp_path, ways, *flags)) == 1


@pytest.mark.slow
def test_imagenet_is_the_same_with_and_without_workers(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    for part, count in (("train", 4), ("val", 1)):
        for label in ("cat", "dog"):
            folder = tmp_path / "data/imagenet" / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(256, size=(60, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    ways = {f"workers{count}": ("--num_workers", str(count)) for count in (0, 2)}
    flags = ("--data", "imagenet", "--arch", "resnet18", "--batch_size", "2", "--backend", "sim")
    assert len(digests(tmp_path, ways, *flags)) == 1


def test_rcv1_is_learnt(tmp_path: Path) -> None:
    write_rcv1(tmp_path / "data", num_train=64, num_test=30)
    summary = finished(
        tmp_path,
        *("--data", "rcv1", "--arch", "logistic_regression", "--data_dir", "data"),
        *("--num_epochs", "2", "--batch_size", "8", "--lr", "1", "--backend", "sim"),
        *("--n_mpi_process", "2", "--evaluate_avg", "True"),
    )
    assert summary["test_top1"] == 100
    assert summary["averaged_model_test_top1"] == 100
