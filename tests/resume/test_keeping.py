"""Which checkpoints there are, and what happens where one cannot be written or read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pcode.training.checkpoint import last_step
from pcode.training.records import lock
from pcode.utils.errors import USER_ERROR
from tests.resume.children import finished, run, run_folder

SMALL = (
    *("--arch", "mlp", "--mlp_hidden_size", "16", "--n_mpi_process", "3"),
    *("--batch_size", "64", "--num_epochs", "4"),
)
STEPS = 7  # of an epoch


def kept(run_: Path) -> tuple[list[int], list[list[int]]]:
    """The steps of the manifests, and of each node's files."""
    files = [
        sorted(int(file.stem.removeprefix("checkpoint_")) for file in folder.glob("checkpoint_*"))
        for folder in sorted(run_.glob("[0-9]"))
    ]
    return sorted(int(file.stem) for file in (run_ / "checkpoints").iterdir()), files


@pytest.mark.parametrize(
    ("flags", "epochs"),
    [
        ((), [3, 4]),
        (("--keep_checkpoints", "1"), [4]),
        (("--keep_checkpoints", "9"), [1, 2, 3, 4]),
        (("--keep_checkpoints", "1", "--save_some_models", "2"), [2, 4]),
        (("--keep_checkpoints", "1", "--save_all_models", "True"), [1, 2, 3, 4]),
        (("--train_fast", "True"), [4]),
        (("--checkpoint_minutes", "1000"), [4]),
    ],
    ids=str,
)
def test_the_last_ones_are_kept(tmp_path: Path, flags: tuple[str, ...], epochs: list[int]) -> None:
    finished(tmp_path, (*SMALL, *flags))
    steps = [STEPS * epoch for epoch in epochs]
    assert kept(run_folder(tmp_path)) == (steps, [steps] * 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a run has ended."""
    folder = tmp_path_factory.mktemp("whole")
    finished(folder, SMALL)
    return folder


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def forge(manifest: Path, **changed: Any) -> None:
    """Change a manifest as who knows the format can: the first version has no digest of its own."""
    content = json.loads(manifest.read_text()) | {"version": 1} | changed
    del content["digest"]
    manifest.write_text(json.dumps(content))


def other_version(file: Path) -> None:
    forge(file, version=7)


def climb(file: Path) -> None:
    forge(file, folders=["0", "../1", "2"])


def fewer(file: Path) -> None:
    forge(file, sha256=json.loads(file.read_text())["sha256"][:2])


def edited(file: Path) -> None:
    """A change that makes sense, and that the digest alone tells."""
    file.write_text(file.read_text().replace('"steps_per_epoch": 7', '"steps_per_epoch": 6'))


def pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def pickled(file: Path) -> None:
    """A file with the right digest that a pickle of objects is: it must not be run."""

    class Evil:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, ("evil",)

    torch.save({"names": Evil()}, file)
    manifest = file.parents[1] / "checkpoints/28.json"
    sha256 = json.loads(manifest.read_text())["sha256"]
    forge(manifest, sha256=[hashlib.sha256(file.read_bytes()).hexdigest(), *sha256[1:]])


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("checkpoints/28.json", cut, "28.json is damaged"),
    ("checkpoints/28.json", lambda file: file.write_bytes(b"\xff\0"), "28.json is damaged"),
    ("checkpoints/28.json", lambda file: file.write_bytes(b"[1]"), "28.json is damaged"),
    ("checkpoints/28.json", other_version, "of version 7, this program reads 1 and 2"),
    ("checkpoints/28.json", climb, "28.json is damaged"),
    ("checkpoints/28.json", fewer, "28.json is damaged"),
    ("checkpoints/28.json", edited, "28.json is damaged"),
    ("checkpoints/28.json", pipe, "28.json is damaged"),
    ("1/checkpoint_28.pt", Path.unlink, "checkpoint_28.pt is not there"),
    ("0/checkpoint_28.pt", cut, "0/checkpoint_28.pt is damaged"),
    ("2/checkpoint_28.pt", flip, "2/checkpoint_28.pt is damaged"),
    ("0/checkpoint_28.pt", pickled, "0/checkpoint_28.pt is no checkpoint"),
    ("config.yaml", Path.unlink, "no run, there is no"),
    ("config.yaml", lambda file: file.write_bytes(b"lr: ["), "not a YAML file"),
    (
        "config.yaml",
        lambda file: file.write_text(file.read_text().replace("manual_seed: 6", "manual_seed: 7")),
        "config.yaml: damaged, or changed since it was written",
    ),
    ("config.yaml", pipe, "config.yaml"),
]


@pytest.mark.parametrize(
    ("name", "damage", "said"), DAMAGES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_a_damaged_checkpoint_is_one_line(
    tmp_path: Path, whole: Path, name: str, damage: Callable[[Path], object], said: str
) -> None:
    shutil.copytree(whole / "runs", tmp_path / "runs")
    run_ = run_folder(tmp_path)
    damage(run_ / name)
    before = {file: file.read_bytes() for file in run_.rglob("*") if file.is_file()}
    ended = run(tmp_path, ("--resume", str(run_)))
    lines = [line for line in ended.output.splitlines() if line.startswith("run.py: error: ")]
    assert ended.status == USER_ERROR, ended.output
    assert "Traceback" not in ended.output
    assert len(lines) == 1
    assert said in lines[0]
    after = {file: file.read_bytes() for file in run_.rglob("*") if file.is_file()}
    assert after.keys() - before.keys() <= {run_ / ".lock"}
    assert {file: after[file] for file in before} == before
    assert not (tmp_path / "evil").exists()


def test_another_model_does_not_fit(tmp_path: Path, whole: Path) -> None:
    ended = run(
        tmp_path,
        ("--resume", str(run_folder(whole)), "--mlp_hidden_size", "17", "--num_epochs", "5"),
    )
    assert ended.status == USER_ERROR
    assert "the model has 4 of" in ended.output


def test_fewer_epochs_than_it_has(tmp_path: Path, whole: Path) -> None:
    ended = run(tmp_path, ("--resume", str(run_folder(whole)), "--num_epochs", "2"))
    assert ended.status == USER_ERROR
    assert "a larger --num_epochs" in ended.output


def test_a_checkpoint_of_the_first_version_is_read(tmp_path: Path, whole: Path) -> None:
    """It called the optimizer's state another name, and everything else as now."""
    run_ = tmp_path / "run"
    shutil.copytree(run_folder(whole), run_)
    (run_ / "summary.json").unlink()
    step = last_step(run_)
    manifest_file = run_ / f"checkpoints/{step}.json"
    sha256 = json.loads(manifest_file.read_text())["sha256"]
    for rank in range(len(sha256)):
        file = run_ / f"{rank}/checkpoint_{step}.pt"
        state = torch.load(file, weights_only=True)
        state["law"] = state.pop("optimizer")
        torch.save(state, file)
        sha256[rank] = hashlib.sha256(file.read_bytes()).hexdigest()
    forge(manifest_file, sha256=sha256)
    ended = run(tmp_path, ("--resume", str(run_)))
    assert ended.status == 0, ended.output
    assert f"resumed after step {step}" in ended.output


def test_a_run_under_way_is_left_alone(tmp_path: Path, whole: Path) -> None:
    with lock(run_folder(whole)):
        ended = run(tmp_path, ("--resume", str(run_folder(whole))))
    assert ended.status == USER_ERROR
    assert "another process trains it" in ended.output


def test_a_checkpoint_that_was_spoilt_on_the_disk(tmp_path: Path) -> None:
    """The digest is that of what was to be written."""
    killed = run(tmp_path, SMALL, "corrupt:1:14:save,kill:1:15:forward")
    assert killed.status == -9
    run_ = run_folder(tmp_path)
    ended = run(tmp_path, ("--resume", str(run_)))
    assert ended.status == USER_ERROR
    assert "1/checkpoint_14.pt is damaged; without 14.json it goes on after step 7" in ended.output
    (run_ / "checkpoints/14.json").unlink()
    assert run(tmp_path, ("--resume", str(run_))).status == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB: room for some three checkpoints."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_while_saving(small_disk: Path) -> None:
    """A clear line, status 1, and the checkpoint before it is whole; with room it goes on."""
    flags = (*SMALL, "--mlp_hidden_size", "512", "--num_epochs", "8", "--save_all_models", "True")
    ended = run(small_disk, flags)
    assert ended.status == 1
    lines = [line for line in ended.output.splitlines() if line.startswith("run.py: error: ")]
    assert len(lines) == 1, ended.output
    assert "No space left on device" in lines[0]
    assert "rank " in lines[0]
    assert "step " in lines[0]
    assert "Traceback" not in ended.output
    run_ = run_folder(small_disk)
    step = last_step(run_)
    assert step is not None
    assert not list(run_.rglob(".tmp-*"))
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    ended = run(small_disk, ("--resume", str(run_)))
    assert f"resumed after step {step} " in ended.output
    assert ended.status == 0
