"""Data files that are damaged, malicious or none at all: one line, nothing written."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
from scipy.io import savemat

from pcode.datasets.encoded_images import FORMAT, FolderImages, write_lmdb
from tests.datasets import published
from tests.run.bad_input import Refuse
from tests.run.runs import draw_images

CIFAR = "cifar-10-batches-py/data_batch_3"
PICTURES, LABELS = published.draw(10, (3, 32, 32), 10, seed=1)
DIGITS, DIGIT_LABELS = published.draw(10, (1, 28, 28), 10, seed=1)


class Call:
    """Pickled, it is a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def pickled(data: Any, labels: Any = (0, 1)) -> bytes:
    return pickle.dumps({"data": data, "labels": list(labels)})


WHOLE = published.python2_pickle("labels", PICTURES[:2].reshape(2, -1), [0, 1])
TWO = PICTURES[:2].reshape(2, -1)
CIFARS = {
    "empty": b"",
    "cut": WHOLE[: len(WHOLE) // 2],
    "end": WHOLE[:-1],
    "garbage": bytes(range(256)),
    "text": b"not a pickle\n",
    "another shape": pickled(TWO[:, :-1]),
    "no array": pickled([1, 2]),
    "no number": pickled("text"),
    "floats": pickled(TWO.astype(np.float32)),
    "no images": pickled(TWO[:0], []),
    "fewer labels": pickled(TWO, [1]),
    "label out of range": pickled(TWO, [0, 10]),
    "negative label": pickled(TWO, [0, -1]),
    "labels that are words": pickled(TWO, ["a", "b"]),
    "huge label": pickled(TWO, [0, 10**30]),
    "no labels": pickle.dumps({"data": TWO}),
    "no dict": pickle.dumps([1]),
    "calls system": pickled(Call(os.system, "touch mark")),
    "calls mkdir": pickled(Call(os.mkdir, "mark")),
    "calls eval": pickled(Call(eval, "open('mark', 'w')")),
    "opens a file": pickled(Call(open, "mark", "w")),
    "calls after the data": WHOLE[:-1] + b"cos\nsystem\n(S'touch mark'\ntR.",
    "system by name": b"cos\nsystem\n(S'touch mark'\ntR.",
    "getattr": b"c__builtin__\ngetattr\n(S'a'\nS'b'\ntR.",
    "codecs": b"c_codecs\nencode\n(Vtext\nVzlib\ntR.",
    "a huge array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(J\xff\xff\xff\x7f"
    b"J\xff\xff\xff\x7ftS'b'\ntR.",
    "huge bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "deep": b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b".",
    "new lines": pickle.dumps({"data": TWO, "labels": np.array(["a\nb"])}),
    "itself": b"\x80\x02}q\x00U\x04dataq\x01h\x00su.",
}


@pytest.mark.parametrize("content", CIFARS.values(), ids=CIFARS)
def test_cifar(refuse: Refuse, tmp_path: Path, content: bytes) -> None:
    published.write_cifar10(tmp_path, PICTURES, LABELS, (PICTURES, LABELS))
    (tmp_path / CIFAR).write_bytes(content)
    line = refuse(["--data", "cifar10", "--data_dir", "."], CIFAR)
    assert len(line) < 1000


IDX = published.idx(DIGITS[:, 0])
MNISTS = {
    "empty": b"",
    "cut": IDX[:-1],
    "header alone": IDX[:16],
    "half a header": IDX[:9],
    "too long": IDX + b"a",
    "floats": b"\0\0\x0d" + IDX[3:],
    "huge sizes": IDX[:4] + b"\xff" * 12 + IDX[16:],
    "many sizes": b"\0\0\x08\xff" + IDX[4:],
    "text": b"no images",
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("content", MNISTS.values(), ids=MNISTS)
def test_mnist(refuse: Refuse, tmp_path: Path, content: bytes, packed: bool) -> None:
    for part in ("train", "t10k"):
        published.write_mnist(tmp_path, part, DIGITS, DIGIT_LABELS, packed=packed)
    (file,) = tmp_path.glob("MNIST/raw/train-images*")
    file.write_bytes(gzip.compress(content) if packed else content)
    refuse(["--data", "mnist", "--data_dir", "."], file.name)


def test_a_small_file_that_unpacks_to_a_huge_one(refuse: Refuse, tmp_path: Path) -> None:
    for part in ("train", "t10k"):
        published.write_mnist(tmp_path, part, DIGITS, DIGIT_LABELS, packed=True)
    (file,) = tmp_path.glob("MNIST/raw/train-images*")
    some = gzip.compress(bytes(1 << 26))
    file.write_bytes(gzip.compress(IDX) + some * 100)  # 6.7 GB
    refuse(["--data", "mnist", "--data_dir", "."], file.name)


def test_a_small_text_that_unpacks_to_a_huge_line(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "ptb").mkdir()
    some = gzip.compress(bytes(1 << 26))
    (tmp_path / "ptb/ptb.train.txt.gz").write_bytes(some * 5)
    flags = ["--data", "ptb", "--data_dir", ".", "--arch", "rnn_lm"]
    assert "unpacks to more than" in refuse(flags, "ptb.train.txt.gz")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "matlab"])
def test_small_arrays_that_unpack_to_huge_ones(refuse: Refuse, tmp_path: Path, kind: str) -> None:
    huge = np.zeros((32, 32, 3, 100_000), np.uint8)
    if kind == "npz":
        (tmp_path / "imagenet32").mkdir()
        (tmp_path / "imagenet32/val_data").touch()
        for number in range(1, 11):
            (tmp_path / f"imagenet32/train_data_batch_{number}.npz").touch()
        file = tmp_path / "imagenet32/train_data_batch_1.npz"
        np.savez_compressed(file, data=TWO, labels=np.ones(2, int), mean=huge)
    else:
        file = tmp_path / "train_32x32.mat"
        (tmp_path / "test_32x32.mat").touch()
        savemat(file, {"X": huge, "y": np.ones((2, 1), np.uint8)}, do_compression=True)
    flags = ["--data", "imagenet32" if kind == "npz" else "svhn", "--data_dir", "."]
    assert "unpacks to 307," in refuse(flags, file.name)


@pytest.mark.parametrize(
    ("data", "files"),
    [
        ("cifar10", [CIFAR]),
        ("mnist", ["MNIST/raw/train-images-idx3-ubyte"]),
        ("svhn", ["train_32x32.mat"]),
        ("stl10", ["stl10_binary/train_X.bin"]),
        ("imagenet32", [f"imagenet32/train_data_batch_{number}.npz" for number in range(1, 11)]),
        ("rcv1", ["rcv1_train.binary"]),
        ("epsilon", ["epsilon_normalized.bz2"]),
        ("ptb", ["ptb/ptb.train.txt"]),
        ("wikitext2", ["wikitext-2/wiki.train.tokens"]),
        ("imagenet --use_lmdb_data True", ["imagenet/train.lmdb"]),
    ],
)
@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling", "loop", "zero", "null", "garbage"])
def test_what_is_no_data_file(
    refuse: Refuse, tmp_path: Path, data: str, files: list[str], kind: str
) -> None:
    published.write_cifar10(tmp_path, PICTURES, LABELS, (PICTURES, LABELS))
    for part in ("train", "t10k"):
        published.write_mnist(tmp_path, part, DIGITS, DIGIT_LABELS)
    for part in ("train", "test"):
        published.write_svhn(tmp_path, part, PICTURES, LABELS)
        published.write_stl(tmp_path, part, *published.draw(3, (3, 96, 96), 10, seed=1))
    for name in ("imagenet", "ptb", "wikitext-2", "imagenet32"):
        (tmp_path / name).mkdir()
    (tmp_path / "imagenet32/val_data").write_bytes(b"")
    for place in [tmp_path / file for file in files]:
        place.unlink(missing_ok=True)
        if kind == "pipe":
            os.mkfifo(place)
        elif kind == "folder":
            place.mkdir()
        elif kind == "garbage":
            place.write_bytes(bytes(range(256)) * 100)
        else:
            targets = {"dangling": "nowhere", "loop": place.name}
            place.symlink_to(targets.get(kind, f"/dev/{kind}"))
    arch = {"rcv1": "logistic_regression", "epsilon": "logistic_regression", "ptb": "rnn_lm"}
    arch["wikitext2"] = "rnn_lm"
    flags = ["--data", *data.split(), "--data_dir", ".", "--arch", arch.get(data, "resnet18")]
    refuse(flags, Path(files[0]).name.removesuffix(".bz2").removesuffix(".npz"))


LIBSVMS = {
    "empty": b"",
    "comments": b"# nothing\n",
    "garbage": bytes(range(256)),
    "another label": b"2 1:1\n",
    "no label": b"1:1 2:1\n",
    "feature 0": b"1 0:1\n",
    "too many features": b"1 99999999:1\n",
    "huge feature": b"1 " + b"9" * 100 + b":1\n",
    "negative feature": b"1 -1:1\n",
    "unsorted": b"1 2:1 1:1\n",
    "not a number": b"1 1:nan\n",
    "infinite": b"1 1:inf\n",
    "overflow": b"1 1:1e999\n",
    "word": b"1 1:word\n",
    "no colon": b"1 1 2 3\n",
    "long line": b"1 " + b"a" * 1_000_000,
    "gzip": gzip.compress(b"1 1:1\n"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("content", LIBSVMS.values(), ids=LIBSVMS)
@pytest.mark.parametrize("name", ["rcv1_train.binary", "epsilon_normalized"])
def test_libsvm(refuse: Refuse, tmp_path: Path, name: str, content: bytes, packed: bool) -> None:
    if packed:
        (tmp_path / f"{name}.bz2").write_bytes(bz2.compress(content))
    else:
        (tmp_path / name).write_bytes(content)
    data = name.partition("_")[0]
    line = refuse(["--data", data, "--data_dir", ".", "--arch", "logistic_regression"], name)
    assert len(line) < 1000


TEXTS = {
    "no words": b"",
    "blanks": b"   \t ",
    "utf-16": "some words".encode("utf-16"),
    "binary": bytes(range(256)),
    "gzip": gzip.compress(b"some words\n" * 100),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("content", TEXTS.values(), ids=TEXTS)
def test_text(refuse: Refuse, tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "ptb").mkdir()
    for each in ("train", "test"):
        (tmp_path / f"ptb/ptb.{each}.txt").write_text("some words\n" * 100)
    (tmp_path / f"ptb/ptb.{part}.txt").write_bytes(content)
    refuse(["--data", "ptb", "--data_dir", ".", "--arch", "rnn_lm"], "--data ptb")


LABELS_OF_TWO = np.zeros(2, "<i4").tobytes()
META = {"format": FORMAT, "classes": ["a"]}
LMDBS: dict[str, dict[bytes, bytes]] = {
    "empty": {},
    "no meta": {b"labels": LABELS_OF_TWO},
    "meta is no json": {b"meta": b"{", b"labels": LABELS_OF_TWO},
    "meta is binary": {b"meta": b"\xff\xfe", b"labels": LABELS_OF_TWO},
    "meta is deep": {b"meta": b"[" * 100_000, b"labels": LABELS_OF_TWO},
    "another format": {b"meta": b'{"format": "pickle"}', b"labels": LABELS_OF_TWO},
    "no labels": {b"meta": json.dumps(META).encode()},
    "half a label": {b"meta": json.dumps(META).encode(), b"labels": b"\0" * 7},
    "more labels": {b"meta": json.dumps(META).encode(), b"labels": LABELS_OF_TWO * 2},
    "labels out of range": {
        b"meta": json.dumps(META).encode(),
        b"labels": np.array([0, 1], "<i4").tobytes(),
    },
    "no classes": {b"meta": json.dumps({**META, "classes": 3}).encode(), b"labels": LABELS_OF_TWO},
}


@pytest.mark.parametrize("content", LMDBS.values(), ids=LMDBS)
def test_lmdb(refuse: Refuse, tmp_path: Path, content: dict[bytes, bytes]) -> None:
    (tmp_path / "imagenet").mkdir()
    for part in ("train", "val"):
        path = str(tmp_path / f"imagenet/{part}.lmdb")
        with lmdb.open(path, subdir=False, lock=False) as out, out.begin(write=True) as transaction:
            for key, value in {**content, bytes(8): b"image", bytes(7) + b"\1": b"image"}.items():
                transaction.put(key, value)
    flags = ["--data", "imagenet", "--use_lmdb_data", "True", "--data_dir", "."]
    refuse([*flags, "--arch", "resnet18"], "imagenet/train.lmdb")


@pytest.mark.parametrize("part", [0.3, 0.99])
def test_an_lmdb_file_that_was_cut(refuse: Refuse, tmp_path: Path, part: float) -> None:
    draw_images(tmp_path, 3)
    folder = tmp_path / "data/imagenet"
    for name in ("train", "val"):
        write_lmdb(FolderImages(folder / name), folder / f"{name}.lmdb", show=False)
    file = folder / "train.lmdb"
    os.truncate(file, int(part * file.stat().st_size))
    flags = ["--data", "imagenet", "--use_lmdb_data", "True", "--data_dir", "data"]
    assert "it was cut" in refuse([*flags, "--arch", "resnet18"], "train.lmdb")
