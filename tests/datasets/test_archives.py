"""What is unpacked stays in the folder of the data sets, whatever an archive says."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from torchvision.datasets import CIFAR10

from pcode.datasets import load_dataset
from pcode.utils.errors import UserError
from tests.datasets import published
from tests.datasets.test_downloads import served
from tests.run.bad_input import listing

CONTENT = b"written by an archive"
Member = tuple[tarfile.TarInfo, bytes]


def file(name: str, content: bytes = CONTENT) -> Member:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def other(name: str, kind: bytes, target: str = "") -> Member:
    """A link, a device or a pipe."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    info.devmajor, info.devminor = 1, 3
    return info, b""


# Each is made for the folder that nothing may be written to.
MALICIOUS: dict[str, Callable[[Path], list[Member]]] = {
    "above": lambda outside: [file("../evil")],
    "far above": lambda outside: [file("../" * 40 + f"{outside}/evil".lstrip("/"))],
    "above, hidden": lambda outside: [file("cifar-10-batches-py/../../evil")],
    "absolute": lambda outside: [file(f"{outside}/evil")],
    "symbolic link outside": lambda outside: [
        other("link", tarfile.SYMTYPE, str(outside)),
        file("link/evil"),
    ],
    "symbolic link above": lambda outside: [
        other("link", tarfile.SYMTYPE, "../.."),
        file("link/evil"),
    ],
    "links through links": lambda outside: [
        other("a", tarfile.SYMTYPE, "."),
        other("b", tarfile.SYMTYPE, "a/../.."),
        file("b/evil"),
    ],
    "hard link outside": lambda outside: [
        other("link", tarfile.LNKTYPE, f"{outside}/there"),
        file("link"),
    ],
    "device": lambda outside: [other("null", tarfile.CHRTYPE)],
    "disk": lambda outside: [other("disk", tarfile.BLKTYPE)],
    "pipe": lambda outside: [other("cifar-10-batches-py/data_batch_1", tarfile.FIFOTYPE)],
    "the files of another": lambda outside: [file("evil")],
    "links for files": lambda outside: [
        other(f"cifar-10-batches-py/data_batch_{number}", tarfile.SYMTYPE, f"{outside}/there")
        for number in range(1, 6)
    ],
    "cut": lambda outside: [],
}


@pytest.mark.parametrize("members", MALICIOUS.values(), ids=MALICIOUS)
def test_an_archive_writes_nothing_outside(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    members: Callable[[Path], list[Member]],
) -> None:
    site, outside = tmp_path / "site", tmp_path / "outside"
    site.mkdir()
    outside.mkdir()
    (outside / "there").write_text("not to be overwritten")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for info, content in members(outside):
            archive.addfile(info, io.BytesIO(content))
    content = packed.getvalue() if members(outside) else packed.getvalue()[:-10]
    (site / CIFAR10.filename).write_bytes(content)
    # With the checksum that is published, no such archive would be opened at all.
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    before = listing(tmp_path)
    with served(site) as (address, _):
        monkeypatch.setattr(CIFAR10, "url", address + CIFAR10.filename)
        with pytest.raises(UserError, match="--download True: cifar10 could not") as refusal:
            load_dataset("cifar10", {"data_dir": str(tmp_path / "data"), "download": True})
    assert len(str(refusal.value).splitlines()) == 1
    after = listing(tmp_path)
    assert after.pop(str(tmp_path / "data")).startswith("d")
    assert after == before


@pytest.mark.skipif(
    not hasattr(tarfile, "data_filter"), reason="archives are refused: this Python is too old"
)
def test_files_that_are_there_are_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link to nowhere that stands in a file's place is replaced, not followed."""
    images, labels = published.draw(10, (3, 32, 32), 10, seed=1)
    published.write_cifar10(tmp_path / "whole", images, labels, (images, labels))
    base = "cifar-10-batches-py"
    published.write_cifar10(tmp_path / "data", images, labels, (images, labels))
    link = tmp_path / "data" / base / "data_batch_2"
    link.unlink()
    link.symlink_to(tmp_path / "outside")

    def download(folder: str, *_: object, **__: object) -> None:
        (tmp_path / "whole" / base).rename(Path(folder) / base)

    monkeypatch.setattr("torchvision.datasets.CIFAR10", download)
    dataset = load_dataset("cifar10", {"data_dir": str(tmp_path / "data"), "download": True})
    assert len(dataset.train_targets) == 10
    assert link.is_file()
    assert not link.is_symlink()
    assert not (tmp_path / "outside").exists()
