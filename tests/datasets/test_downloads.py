"""Fetching a data set with torchvision, from a server on this machine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import MNIST

from pcode.datasets import Dataset, load_dataset
from pcode.datasets.in_memory import InMemory
from pcode.utils.errors import UserError
from tests.datasets import published

IMAGES, LABELS = published.draw(12, (1, 28, 28), 10, seed=1)


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, Counter[str]]]:
    """The address of a server of the files in the folder, and how often each is fetched."""
    fetched: Counter[str] = Counter()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched[Path(self.path).name] += 1
            super().do_GET()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", fetched
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def mnist_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """torchvision's MNIST is a small one on this machine; how often each file is fetched."""
    for part in ("train", "t10k"):
        published.write_mnist(tmp_path / "site", part, IMAGES, LABELS, packed=True)
    raw = tmp_path / "site" / "MNIST" / "raw"
    resources = [
        (file, hashlib.md5((raw / file).read_bytes()).hexdigest()) for file, _ in MNIST.resources
    ]
    with served(raw) as (address, fetched):
        monkeypatch.setattr(MNIST, "mirrors", [address])
        monkeypatch.setattr(MNIST, "resources", resources)
        yield fetched


def load(folder: Path, name: str = "mnist") -> Dataset:
    return load_dataset(name, {"data_dir": str(folder), "download": True})


def test_what_is_missing_is_fetched_once(tmp_path: Path, mnist_site: Counter[str]) -> None:
    folder = tmp_path / "data"
    dataset = load(folder)
    assert isinstance(dataset, InMemory)
    np.testing.assert_array_equal(dataset.train_inputs, IMAGES)
    assert dataset.test_targets.tolist() == LABELS.tolist()
    assert len(mnist_site) == 4
    once = mnist_site.copy()
    load(folder)
    load_dataset("mnist", {"data_dir": str(folder), "download": False})
    assert mnist_site == once
    # Nothing is left of the download but the files themselves and the lock.
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert files == {Path(file).stem for file, _ in MNIST.resources} | {".mnist.lock"}


def test_of_several_ranks_one_fetches(tmp_path: Path, mnist_site: Counter[str]) -> None:
    load(tmp_path / "alone")
    once = mnist_site.copy()
    with ThreadPoolExecutor(4) as ranks:
        datasets = list(ranks.map(load, [tmp_path / "data"] * 4))
    assert [dataset.num_test for dataset in datasets] == [12] * 4
    assert mnist_site == once + once


@pytest.mark.parametrize("packed", [False, True])
def test_files_that_are_there_without_the_others_are_kept(
    tmp_path: Path, mnist_site: Counter[str], packed: bool
) -> None:
    published.write_mnist(tmp_path, "train", IMAGES[:5], LABELS[:5], packed=packed)
    theirs = {path: path.read_bytes() for path in tmp_path.glob("MNIST/raw/train*")}
    dataset = load(tmp_path)
    assert (len(dataset.train_targets), dataset.num_test) == (5, 12)
    assert {path: path.read_bytes() for path in tmp_path.glob("MNIST/raw/train*")} == theirs


def test_a_download_with_another_checksum_is_refused(
    tmp_path: Path, mnist_site: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _), *others = MNIST.resources
    monkeypatch.setattr(MNIST, "resources", [(first, "0" * 32), *others])
    with pytest.raises(UserError, match="--download True: mnist could not be fetched") as refusal:
        load(tmp_path / "data")
    assert "\n" not in str(refusal.value)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_5"),
        ("cifar100", "cifar-100-python/train"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("svhn", "test_32x32.mat"),
        ("stl10", "stl10_binary/train_X.bin"),
    ],
)
def test_without_a_network_the_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    with served(tmp_path) as (address, _):
        pass  # nobody listens there any more
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, address)
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(UserError, match=f"--download True: {name} could not be fetched") as refusal:
        load(tmp_path, name)
    message = str(refusal.value)
    assert "\n" not in message
    assert file in message
    assert f"into {tmp_path}" in message


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="--download True: svhn could not be fetched"):
        load(tmp_path / "file" / "data", "svhn")
