"""ImageNet's folders and LMDB files, on images that the tests make."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any
from zlib import crc32

import lmdb
import numpy as np
import psutil
import pytest
import torch
from PIL import EpsImagePlugin, Image

from pcode.datasets import Batch, Dataset, load_dataset
from pcode.datasets.encoded_images import FORMAT, FolderImages
from pcode.datasets.imagenet import DEVIATION, MEAN
from pcode.tools.to_lmdb import main as to_lmdb
from pcode.utils.errors import LoaderError, UserError

NUM_IMAGES = {"train": {"n01": 4, "n02": 3}, "val": {"n01": 2, "n02": 3}}


def draw_image(path: Path, seed: int, mode: str = "RGB") -> None:
    """A smooth picture of another size for each seed."""
    generator = np.random.default_rng(seed)
    few = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    size = (int(generator.integers(230, 320)), int(generator.integers(230, 320)))
    Image.fromarray(few).resize(size, Image.Resampling.BICUBIC).convert(mode).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA_DIR with folders and with the LMDB files made of them."""
    data_dir = tmp_path_factory.mktemp("data")
    for part, classes in NUM_IMAGES.items():
        source = data_dir / "imagenet" / part
        for name, count in classes.items():
            (source / name).mkdir(parents=True)
            for index in range(count):
                mode = "CMYK" if (name, index) == ("n02", 0) else "RGB"
                draw_image(
                    source / name / f"{name}_{index}.JPEG", seed=10 * count + index, mode=mode
                )
        assert to_lmdb([str(source), str(source.with_suffix(".lmdb"))]) == 0
    return data_dir


def load(
    folder: Path, *, lmdb: bool = False, num_workers: int = 0, limit_seconds: float = 300.0
) -> Dataset:
    flags = {
        "data_dir": str(folder),
        "use_lmdb_data": lmdb,
        "num_workers": num_workers,
        "pin_memory": True,
        "time_limit_seconds": limit_seconds,
    }
    return load_dataset("imagenet", flags)


def equal(one: Iterator[Batch], other: Iterator[Batch]) -> bool:
    pairs = list(zip(one, other, strict=True))
    assert pairs
    return all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in pairs)


BATCHES = [torch.tensor([6, 0]), torch.tensor([3]), torch.tensor([2, 5])]
SEEDS = [1, 2, 3]


@pytest.mark.parametrize("lmdb", [False, True])
def test_what_is_known_without_decoding(folder: Path, lmdb: bool) -> None:
    dataset = load(folder, lmdb=lmdb)
    assert (dataset.name, dataset.task, dataset.labelled) == ("imagenet", "classification", True)
    assert (dataset.input_shape, dataset.num_classes) == ((3, 224, 224), 2)
    assert dataset.train_targets.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert dataset.train_targets.dtype == torch.int64
    assert dataset.num_test == 5


def test_the_test_path_is_torchvisions(folder: Path) -> None:
    from torchvision.transforms import functional  # noqa: PLC0415  # a second, only here

    batches = list(load(folder).test_batches())
    inputs = torch.cat([inputs for inputs, _ in batches])
    assert torch.cat([targets for _, targets in batches]).tolist() == [0, 0, 1, 1, 1]
    files = sorted((folder / "imagenet" / "val").glob("*/*.JPEG"))
    for file, given in zip(files, inputs, strict=True):
        with Image.open(file) as image:
            whole = functional.resize(image.convert("RGB"), 256)
        middle = functional.to_tensor(functional.center_crop(whole, 224))
        expected = functional.normalize(middle, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        torch.testing.assert_close(given, expected, atol=1e-6, rtol=0)


def test_a_training_image_is_a_piece_of_the_file(folder: Path, tmp_path: Path) -> None:
    """Of a picture whose red tells the column and whose green the row."""
    red = np.tile(np.linspace(0, 255, 300, dtype=np.uint8), (300, 1))
    picture = Image.fromarray(np.stack([red, red.T, np.zeros_like(red)], axis=2))
    for part in ("train", "val"):
        (tmp_path / "imagenet" / part / "n01").mkdir(parents=True)
        picture.save(tmp_path / "imagenet" / part / "n01" / "0.png")
    dataset = load(tmp_path)
    scale, shift = (torch.tensor(values).view(3, 1, 1) for values in (DEVIATION, MEAN))
    areas, flips = [], 0
    for seed in range(40):
        ((inputs, _),) = dataset.read([torch.tensor([0])], [seed])
        assert inputs.shape == (1, 3, 224, 224)
        pixels = inputs[0] * scale + shift
        assert float(pixels.min()) > -1e-6
        assert float(pixels.max()) < 1 + 1e-6
        columns, rows = pixels[0, 112], pixels[1, :, 112]
        flips += bool(columns[0] > columns[-1])
        assert bool((columns.diff() <= 1e-6).all() or (columns.diff() >= -1e-6).all())
        assert bool((rows.diff() >= -1e-6).all())
        areas.append(float((columns[-1] - columns[0]).abs() * (rows[-1] - rows[0])))
    # 8 to 100 % of the area, either way round.
    assert 0.05 < min(areas) < 0.3
    assert 0.7 < max(areas) <= 1
    assert 8 <= flips <= 32


def test_the_augmentation_depends_on_the_seed_alone(folder: Path) -> None:
    dataset = load(folder)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = list(dataset.read(BATCHES, SEEDS))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert equal(iter(first), dataset.read(BATCHES, SEEDS))
    (again,) = dataset.read(BATCHES[1:2], SEEDS[1:2])
    assert torch.equal(again[0], first[1][0])
    (other,) = dataset.read(BATCHES[1:2], [7])
    assert not torch.equal(other[0], first[1][0])
    assert [targets.tolist() for _, targets in first] == [[1, 0], [0], [0, 1]]


def test_workers_and_lmdb_give_the_same_bits(folder: Path) -> None:
    plain = load(folder)
    for other in (load(folder, lmdb=True), load(folder, lmdb=True, num_workers=2)):
        assert torch.equal(plain.train_targets, other.train_targets)
        assert equal(plain.read(BATCHES, SEEDS), other.read(BATCHES, SEEDS))
        assert equal(plain.test_batches(), other.test_batches())
    assert equal(plain.read(BATCHES, SEEDS), load(folder, num_workers=1).read(BATCHES, SEEDS))


@pytest.mark.parametrize("num_parts", [2, 7])
def test_shares_cover_the_test_set_once(folder: Path, num_parts: int) -> None:
    dataset = load(folder)
    whole = [image.sum().item() for inputs, _ in dataset.test_batches() for image in inputs]
    parts = [dataset.test_batches(part, num_parts) for part in range(num_parts)]
    shared = [image.sum().item() for inputs, _ in chain(*parts) for image in inputs]
    assert sorted(shared) == sorted(whole)


def test_no_process_is_left(folder: Path, temporary: str) -> None:
    command = [sys.executable, "-m", "tests.datasets.read_images", str(folder)]
    root = Path(__file__).parents[2]
    # Not to a pipe: its end would be waited for in the place of the processes that hold it.
    with (folder / "printed").open("w+") as printed:
        env = {**os.environ, "TMPDIR": temporary}
        subprocess.run(command, cwd=root, env=env, stdout=printed, check=False, timeout=60)
        printed.seek(0)
        lines = printed.read().splitlines()
    reading, closed, killed = [{int(number) for number in line.split()} for line in lines]
    # Two workers, the server that starts them and multiprocessing's tracker of resources.
    assert len(reading) == len(killed) == 4
    assert len(closed) == 2
    assert closed == reading & killed
    _, alive = psutil.wait_procs(still_there(reading | killed), timeout=20)
    assert not alive


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "the loader process {} was ended by signal 9 (Killed)"),
        pytest.param(signal.SIGSTOP, "process {} was stopped", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_is_killed_or_stopped_is_an_error(
    folder: Path, number: signal.Signals, words: str
) -> None:
    dataset = load(folder, num_workers=1, limit_seconds=4)
    batches = dataset.read([torch.tensor([index % 3]) for index in range(50)], range(50))
    next(batches)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, number)
    match = f"--num_workers 1: .*{re.escape(words.format(worker.pid))}"
    with pytest.raises(LoaderError, match=match) as caught:
        list(batches)
    assert "\n" not in str(caught.value)


def still_there(numbers: set[int]) -> list[psutil.Process]:
    return [psutil.Process(number) for number in numbers if psutil.pid_exists(number)]


def test_a_damaged_image_is_named(folder: Path, tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / "imagenet" / part / "n01").mkdir(parents=True)
        draw_image(tmp_path / "imagenet" / part / "n01" / "good.JPEG", 1)
    bad = tmp_path / "imagenet" / "train" / "n01" / "bad.JPEG"
    bad.write_bytes((bad.parent / "good.JPEG").read_bytes()[:400])
    for num_workers in (0, 1):
        with pytest.raises(UserError, match=r"train/n01/bad\.JPEG: is no image that can") as caught:
            list(load(tmp_path, num_workers=num_workers).read([torch.tensor([0])], [1]))
        assert "\n" not in str(caught.value)
    dataset = load(tmp_path)
    bad.unlink()
    with pytest.raises(UserError, match=r"bad\.JPEG: cannot be read: No such file"):
        list(dataset.read([torch.tensor([0])], [1]))


LEFT_BY_SYSTEMS = (
    *(".ipynb_checkpoints", ".hidden", "__MACOSX", "__macosx", "__pycache__", "lost+found"),
    *("$RECYCLE.BIN", "$Recycle.Bin", "RECYCLER", "System Volume Information"),
    *("@eaDir", "@tmp", "#recycle", "#snapshot", "@Recycle", "@__thumb", "~snapshot"),
)


def test_what_systems_leave_in_folders_is_no_class_and_no_image(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "imagenet", tmp_path / "imagenet")
    for part in ("train", "val"):
        shown = tmp_path / "imagenet" / part
        for name in LEFT_BY_SYSTEMS:
            for place in (shown, shown / "n01"):
                (place / name).mkdir()
                shutil.copy(shown / "n01" / "n01_0.JPEG", place / name / "copy.JPEG")
        (shown / "n01" / "._n01_0.JPEG").write_bytes(b"\0\5\x16\7Mac OS X")
        (shown / "n01" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (shown / "n02" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    plain, other = load(folder), load(tmp_path)
    assert other.num_classes == 2
    assert torch.equal(plain.train_targets, other.train_targets)
    assert equal(plain.test_batches(), other.test_batches())
    assert other.notices == ()
    (shown / "n02").rename(shown / "@")
    (shown / "n01").rename(shown / "$x")
    assert FolderImages(shown).classes == ["$x", "@"]
    (tmp_path / "imagenet" / "train" / "n03").mkdir()
    with pytest.raises(UserError, match=r"classes:? n03; must hold a folder of images"):
        load(tmp_path)
    for name in ("n01", "n02", "n03"):
        shutil.rmtree(tmp_path / "imagenet" / "train" / name)
    with pytest.raises(UserError, match=r"/train: holds no folder; must hold a folder of images"):
        load(tmp_path)


def test_classes_without_test_images_are_told(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "imagenet", tmp_path / "imagenet")
    shutil.rmtree(tmp_path / "imagenet" / "val" / "n02")
    dataset = load(tmp_path)
    assert dataset.num_classes == 2
    assert dataset.notices == ("--data imagenet: no test images of 1 of 2 classes, as n02",)
    assert load(folder, lmdb=True).notices == ()


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of these chunks."""
    parts = [
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))
        for kind, content in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text\n",
        bytes(range(256)) * 10,
        png(),
        png((b"IHDR", b"")),
        png((b"IHDR", struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0))),
        png((b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), (b"IDAT", b"a")),
        png((b"IHDR", struct.pack(">IIBBBBB", 9, 9, 99, 99, 0, 0, 0)), (b"IDAT", b"a")),
        b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 200,
        b"MM\0*\0\0\0\x08\0\1\1\0\0\3",
        b"GIF89a\xff\xff\xff\xff\xf7\0\0",
        b"P6 999999999 999999999 255\n",
        b"P6 a b 255\n",
        b"BM" + b"\xff" * 60,
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"\xff\xd8\xff\xe0" + b"\0" * 50,
        None,
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    for part in ("train", "val"):
        (tmp_path / "imagenet" / part / "n01").mkdir(parents=True)
        draw_image(tmp_path / "imagenet" / part / "n01" / "good.JPEG", 1)
    bad = tmp_path / "imagenet" / "train" / "n01" / "bad.JPEG"
    if content is None:
        os.mkfifo(bad)
    else:
        bad.write_bytes(content)
    with pytest.raises(UserError, match=r"train/n01/bad\.JPEG: ") as caught:
        list(load(tmp_path).read([torch.tensor([0])], [1]))
    assert str(caught.value).isprintable()
    assert "object at" not in str(caught.value)


def test_what_is_not_there_is_named(folder: Path, tmp_path: Path) -> None:
    where = f"--data imagenet --data_dir {tmp_path}: {tmp_path}/imagenet/train"
    with pytest.raises(UserError, match=f"^{where}: No such file.*folder of images per class"):
        load(tmp_path)
    with pytest.raises(UserError, match=rf"^{where}\.lmdb: cannot be read: .*No such file"):
        load(tmp_path, lmdb=True)
    (tmp_path / "imagenet" / "train" / "n01").mkdir(parents=True)
    with pytest.raises(UserError, match=f"^{where}: Found no valid file for the classes n01"):
        load(tmp_path)
    draw_image(tmp_path / "imagenet" / "train" / "n01" / "0.png", 1)
    (tmp_path / "imagenet" / "val" / "n03").mkdir(parents=True)
    draw_image(tmp_path / "imagenet" / "val" / "n03" / "0.png", 1)
    with pytest.raises(UserError, match="no training images of the test class n03"):
        load(tmp_path)
    (tmp_path / "imagenet" / "train.lmdb").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"train\.lmdb: cannot be read"):
        load(tmp_path, lmdb=True)


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({b"meta": {}}, "was not made by python -m pcode.tools.to_lmdb"),
        ({b"meta": {"format": FORMAT}}, "does not name its classes"),
        ({b"meta": {"format": FORMAT, "classes": {"n01": 0}}}, "does not name its classes"),
        ({b"meta": {"format": FORMAT, "classes": ["n01"]}}, "labels from 0 to 1 where there are 1"),
        ({b"meta": {"format": FORMAT, "classes": []}}, "labels from 0 to 1 where there are 0"),
        ({b"labels": [0, -1, *[0] * 5]}, "labels from -1 to 0 where there are 2"),
        ({b"labels": [0] * 6}, "was not made by python -m pcode.tools.to_lmdb"),
        ({b"labels": [], **{bytes(7) + bytes([i]): None for i in range(7)}}, "holds no image"),
    ],
)
def test_an_lmdb_file_that_does_not_fit_together_is_refused(
    folder: Path, tmp_path: Path, entries: dict[bytes, Any], reason: str
) -> None:
    """One whose entries are replaced by these; None: taken out."""
    (tmp_path / "imagenet").mkdir()
    path = tmp_path / "imagenet" / "train.lmdb"
    path.write_bytes((folder / "imagenet" / "train.lmdb").read_bytes())
    with lmdb.open(str(path), subdir=False, lock=False) as file, file.begin(write=True) as writing:
        for key, value in entries.items():
            if value is None:
                assert writing.delete(key)
            else:
                labels = key == b"labels"
                content = np.array(value, "<i4").tobytes() if labels else json.dumps(value).encode()
                assert writing.put(key, content)
    with pytest.raises(UserError, match=rf"/train\.lmdb: {reason}") as refusal:
        load(tmp_path, lmdb=True)
    assert "\n" not in str(refusal.value)


def within_iptc(content: bytes) -> bytes:
    """A file in which Pillow looks for another one, whatever that is."""
    # One component, 64 x 64, compressed as JPEG is; then what it holds.
    fields = [(3, 60, b"\1\0"), (3, 65, b"\1"), (3, 20, b"\0\x40"), (3, 30, b"\0\x40")]
    fields += [(3, 120, b"\5"), (8, 10, content)]
    return b"".join(
        bytes([0x1C, record, number]) + len(data).to_bytes(2, "big") + data
        for record, number, data in fields
    )


@pytest.mark.parametrize("packed", [bytes, within_iptc])
def test_an_image_that_is_a_program_is_not_run(
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    packed: Callable[[bytes], bytes],
) -> None:
    """Pillow has Ghostscript run what is in PostScript, whatever the file's name is."""
    shutil.copytree(folder / "imagenet/train", tmp_path / "imagenet/train")
    shutil.copytree(folder / "imagenet/val", tmp_path / "imagenet/val")
    program, mark = tmp_path / "bin/gs", tmp_path / "mark"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    (image,) = (tmp_path / "imagenet/train/n01").glob("n01_0.*")
    Image.new("RGB", (64, 64)).save(image, format="EPS")
    image.write_bytes(packed(image.read_bytes()))
    with suppress(OSError), Image.open(image) as opened:
        opened.load()
    assert mark.exists()  # so it would
    mark.unlink()
    dataset = load(tmp_path)
    with pytest.raises(UserError, match=r"n01_0.JPEG: is no image that can be decoded"):
        next(dataset.read([torch.tensor([0])], [0]))
    assert not mark.exists()
