"""epsilon and rcv1 from small files in LIBSVM's text format."""

from __future__ import annotations

import bz2
import difflib
import gzip
import lzma
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pcode.datasets import Dataset, load_dataset
from pcode.datasets.data_files import HEADER_BYTES
from pcode.models import make_model
from pcode.utils.errors import UserError
from pcode.utils.files import beside

NAMES = {
    "epsilon": ("epsilon_normalized", "epsilon_normalized.t"),
    "rcv1": ("rcv1_train.binary", "rcv1_test.binary"),
}
FEATURES = {"epsilon": 2000, "rcv1": 47236}
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".bz2": bz2.compress,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
}
TRAIN = "-1 1:0.5 3:-0.25\n+1 2:1e-1 2000:4 \n1 1:1\n-1\n"
TEST = "1 2:3\n-1 1:-2\n1 5:5\n"
ENTRIES = [{0: 0.5, 2: -0.25}, {1: 0.1, 1999: 4.0}, {0: 1.0}, {}]


def write(folder: Path, data: str, train: str = TRAIN, test: str = TEST) -> None:
    for name, content in zip(NAMES[data], (train, test), strict=True):
        (folder / name).write_text(content, encoding="ascii")


def load(folder: Path, data: str) -> Dataset:
    return load_dataset(data, {"data_dir": str(folder)})


def rows(data: str) -> torch.Tensor:
    expected = torch.zeros(4, FEATURES[data])
    for row, entries in enumerate(ENTRIES):
        for column, value in entries.items():
            expected[row, column] = value
    return expected


@pytest.mark.parametrize("data", NAMES)
@pytest.mark.parametrize("ending", ["", *PACK])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_is_in_the_files(tmp_path: Path, data: str, ending: str, mark: bytes) -> None:
    write(tmp_path, data)
    for name in NAMES[data]:
        path = tmp_path / name
        content = mark + path.read_bytes()
        path.unlink()
        packed = PACK[ending](content) if ending else content
        path.with_name(f"{name}{ending}").write_bytes(packed)
    for _ in range(2):  # from the text, and from what was cached of it
        dataset = load(tmp_path, data)
        assert (dataset.name, dataset.num_classes, dataset.num_test) == (data, 2, 3)
        assert dataset.input_shape == (FEATURES[data],)
        assert dataset.train_targets.tolist() == [0, 1, 1, 0]
        assert dataset.train_targets.dtype == torch.int64
        order = [torch.tensor([3, 1]), torch.tensor([0, 2])]
        for batch, (inputs, targets) in zip(order, dataset.read(order, [0, 0]), strict=True):
            assert inputs.dtype == torch.float32
            assert torch.equal(inputs, rows(data)[batch])
            assert torch.equal(targets, torch.tensor([0, 1, 1, 0])[batch])
    kept = sorted(path.suffix for path in tmp_path.iterdir() if path.name not in NAMES[data])
    assert kept.count(".kept") == 2


@pytest.mark.parametrize("data", NAMES)
@pytest.mark.parametrize("num_parts", [1, 2, 5])
def test_shares_cover_the_test_set_once(tmp_path: Path, data: str, num_parts: int) -> None:
    write(tmp_path, data)
    dataset = load(tmp_path, data)
    seen = []
    for part in range(num_parts):
        for batch, targets in dataset.test_batches(part, num_parts):
            inputs = batch.to_dense()
            assert inputs.shape == (len(targets), FEATURES[data])
            seen += list(zip(inputs.sum(dim=1).tolist(), targets.tolist(), strict=True))
    assert sorted(seen) == [(-2.0, 0), (3.0, 1), (5.0, 1)]


@pytest.mark.parametrize("arch", ["logistic_regression", "mlp"])
def test_a_model_takes_sparse_batches_as_it_takes_dense_ones(tmp_path: Path, arch: str) -> None:
    write(tmp_path, "rcv1", test=TRAIN)
    dataset = load(tmp_path, "rcv1")
    flags = {"mlp_num_layers": 2, "mlp_hidden_size": 8, "drop_rate": 0.0}
    model = make_model(arch, dataset.input_shape, 2, 1, flags).eval()
    ((inputs, _),) = dataset.test_batches()
    assert inputs.is_sparse
    torch.testing.assert_close(model(inputs), model(rows("rcv1")), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("data", NAMES)
def test_rows_are_in_order_across_chunks(
    tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pcode.datasets.libsvm.CHUNK_BYTES", 20)
    lines = [f"{'-+'[number % 3 == 0]}1 {number + 1}:{number + 1}\n" for number in range(50)]
    write(tmp_path, data, "".join(lines))
    dataset = load(tmp_path, data)
    ((inputs, targets),) = dataset.read([torch.arange(50)], [0])
    assert torch.equal(inputs[:, :50], torch.diag(torch.arange(1.0, 51)))
    assert targets.tolist() == [int(number % 3 == 0) for number in range(50)]


@pytest.mark.parametrize("data", NAMES)
def test_a_changed_file_is_read_anew(tmp_path: Path, data: str) -> None:
    write(tmp_path, data)
    assert load(tmp_path, data).train_targets.tolist() == [0, 1, 1, 0]
    write(tmp_path, data, "1 1:1\n1 1:1\n")
    assert load(tmp_path, data).train_targets.tolist() == [1, 1]
    write(tmp_path, data, "1 1:2\n1 1:3\n")  # as many bytes
    os.utime(tmp_path / NAMES[data][0], ns=(1, 1))
    ((inputs, _),) = load(tmp_path, data).read([torch.arange(2)], [0])
    assert inputs[:, 0].tolist() == [2, 3]


def test_the_copy_of_a_changed_file_takes_the_place_of_the_other(tmp_path: Path) -> None:
    copies = []
    for train in (TRAIN, "1 1:1\n"):
        write(tmp_path, "epsilon", train)
        dataset = load(tmp_path, "epsilon")
        copies.append(sorted(path.name for path in tmp_path.glob("*.kept")))
    assert copies == [[f"{name}.kept" for name in NAMES["epsilon"]]] * 2
    assert len(dataset.train_targets) == 1


@pytest.mark.parametrize("mask", [0o022, 0o077])
@pytest.mark.parametrize(("mode", "expected"), [(0o644, 0o644), (0o440, 0o640), (0o600, 0o600)])
def test_a_copy_is_for_all_who_read_the_file_and_nobody_else(
    tmp_path: Path, mask: int, mode: int, expected: int
) -> None:
    write(tmp_path, "epsilon")
    group = os.getegid()
    for name in NAMES["epsilon"]:
        (tmp_path / name).chmod(mode)
        if not os.geteuid():
            os.chown(tmp_path / name, -1, group := 1234)
    before = os.umask(mask)
    try:
        load(tmp_path, "epsilon")
    finally:
        os.umask(before)
    found = {(path.stat().st_mode & 0o777, path.stat().st_gid) for path in tmp_path.glob("*.kept")}
    assert found == {(expected, group)}


@pytest.mark.parametrize("data", NAMES)
@pytest.mark.parametrize("left", [0, 100, 256, 0.5, 0.999])
def test_a_copy_that_was_cut_is_made_anew(tmp_path: Path, data: str, left: float) -> None:
    write(tmp_path, data)
    load(tmp_path, data)
    (kept,) = tmp_path.glob(f"{NAMES[data][0]}.kept")
    whole = kept.read_bytes()
    kept.write_bytes(whole[: left if isinstance(left, int) else int(left * len(whole))])
    dataset = load(tmp_path, data)
    ((inputs, targets),) = dataset.read([torch.arange(4)], [0])
    assert torch.equal(inputs, rows(data))
    assert targets.tolist() == [0, 1, 1, 0]
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("data", NAMES)
@pytest.mark.parametrize(
    "train",
    [
        *("1 0:3\n", "1 1:x\n", "1 99999:1\n", "2 1:1\n", "nan 1:1\n"),
        *("1 1:nan\n", "-1 1:1\n1 1:inf\n", "1 1:-1e60\n"),
        *("", "\n", "# a comment alone\n", "<html>no such page</html>\n"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, data: str, train: str) -> None:
    write(tmp_path, data, train)
    with pytest.raises(UserError, match=f"^--data {data}: .*{NAMES[data][0]}: .") as caught:
        load(tmp_path, data)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.kept"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("data", NAMES)
@pytest.mark.parametrize("ending", PACK)
def test_a_damaged_archive_is_named(tmp_path: Path, data: str, ending: str) -> None:
    path = tmp_path / f"{NAMES[data][0]}{ending}"
    whole = PACK[ending](TRAIN.encode())
    flipped = whole[:20] + bytes(255 - byte for byte in whole[20:24]) + whole[24:]
    for content in (whole[:-8], flipped, b"no archive", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"^--data {data}: .*\{ending}: .") as caught:
            load(tmp_path, data)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", NAMES)
def test_a_missing_file_is_named(tmp_path: Path, data: str) -> None:
    message = f"{NAMES[data][0]} is not there.*LIBSVM data page.*--data_dir"
    with pytest.raises(UserError, match=message):
        load(tmp_path, data)
    (tmp_path / f"{NAMES[data][0]}.zip").touch()
    (tmp_path / ".hidden").touch()
    near = rf"nor with \.bz2 or \.gz or \.xz; beside it lie {NAMES[data][0]}\.zip; fetch"
    with pytest.raises(UserError, match=near):
        load(tmp_path, data)
    with pytest.raises(UserError, match=f"there is no folder {tmp_path}/nowhere; fetch"):
        load(tmp_path / "nowhere", data)


def test_among_many_files_one_of_a_similar_name_is_soon_found(tmp_path: Path) -> None:
    names = [f"train_{number:05d}.jpeg" for number in range(5000)]
    for name in names:
        (tmp_path / name).touch()
    begin = time.process_time()
    assert beside(tmp_path / "train_01234.jpg").startswith("; beside it lie train_01234.jpeg, ")
    middle = time.process_time()
    difflib.get_close_matches("train_01234.jpg", names, n=5, cutoff=0)
    assert middle - begin < (time.process_time() - middle) / 2


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "epsilon")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as root, everything is writable
    assert load(tmp_path, "epsilon").train_targets.tolist() == [0, 1, 1, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == list(NAMES["epsilon"])


@pytest.mark.parametrize("wrong", ["column", "class", "type"])
def test_a_copy_from_somewhere_else_is_checked(tmp_path: Path, wrong: str) -> None:
    """One with the right header, and places outside of what it is read into."""
    write(tmp_path, "rcv1")
    load(tmp_path, "rcv1")
    kept = tmp_path / "rcv1_train.binary.kept"
    with kept.open("r+b") as file:
        file.seek(HEADER_BYTES)
        entries, columns, ends = (np.load(file) for _ in range(3))
        if wrong == "column":
            columns[0] = 1 << 30
        elif wrong == "class":
            entries[columns == FEATURES["rcv1"]] = 7
        else:
            entries = entries.view(np.int32)
        file.seek(HEADER_BYTES)
        for array in (entries, columns, ends):
            np.save(file, array)
    with pytest.raises(UserError, match=r"^--data rcv1: .*rcv1_train.binary: .") as caught:
        load(tmp_path, "rcv1")
    assert "\n" not in str(caught.value)
