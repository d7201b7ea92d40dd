"""A run's folder, CHECKPOINT/DATA/ARCH/EXPERIMENT/TIMESTAMP: where it may be, and what it gets.

That is config.yaml, log.jsonl, tensorboard/ and summary.json.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
import torch
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar
from torch import nn

from pcode.config import Config, to_yaml
from pcode.training.checkpoint import check_tensors, save_tensors
from pcode.utils.errors import TakenError, UserError
from pcode.utils.files import (
    LONGEST_NAME_BYTES,
    one_line,
    plain_file,
    sealed,
    whole_file,
    write_whole,
)

SUMMARY = "summary.json"
# How long who asks whether a run is locked may lock it.
ASKING_SECONDS = 2.0


def runs_folder(config: Config) -> Path:
    """Return the folder in which the runs of this experiment have theirs, by timestamp."""
    watch = config.watch
    return Path(watch.checkpoint, config.data.data, config.model.arch, watch.experiment)


def check_folder(config: Config) -> None:
    """Raise UserError for what cannot be, or cannot be made, the folder of a run."""
    watch = config.watch
    for name, value in (("experiment", watch.experiment), ("timestamp", watch.timestamp)):
        if value is not None and (value in ("", "..") or Path(value).name != value):
            raise UserError(f"--{name} {value!r}: must be the name of one folder")
        if value is not None and len(os.fsencode(value)) > LONGEST_NAME_BYTES:
            raise UserError(f"--{name}: longer than {LONGEST_NAME_BYTES} bytes")
    place = runs_folder(config).absolute()
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise UserError(f"--checkpoint {watch.checkpoint}: {error.strerror}") from None
    existing = next(folder for folder in (place, *place.parents) if os.path.lexists(folder))
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--checkpoint {watch.checkpoint}: cannot write into {existing}")


def check_contents(run: Path) -> None:
    """Raise UserError where what a run writes would lie elsewhere: it may come from anybody."""
    for path in (*run.iterdir(), *run.glob("*/log.jsonl")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise UserError(f"--resume {run}: {path} is a link, or neither a file nor a folder")


def taken(run: Path) -> TakenError:
    return TakenError(f"--resume {run}: another process trains it")


def is_locked(run: Path) -> bool:
    """Return whether a process trains in this folder."""
    try:
        with open(run / ".lock", "rb", opener=plain_file) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # many may ask at once
    except BlockingIOError:
        return True
    except OSError:  # no such file, or a file system without locks
        pass
    return False


def lock(run: Path) -> BinaryIO:
    """Keep others from training in this folder as long as the file is open.

    Raises:
        TakenError: another process does already.
    """
    file = open(run / ".lock", "ab", opener=plain_file)  # noqa: SIM115  # held by who calls
    deadline = time.monotonic() + ASKING_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # who looks for a run that has not ended holds it for a moment too
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            file.close()
            raise taken(run) from None
        except OSError:  # a file system without locks
            pass
        return file


def run_name(start: datetime) -> str:
    """Name a run that starts then: its folder, unless --timestamp gives another name."""
    return start.strftime("%Y-%m-%d_%H-%M-%S-%f")


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield every number among the values and in those that are mappings, by its path."""
    for name, value in values.items():
        path = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            yield from _numbers(value, path)
        elif isinstance(value, int | float):
            yield path, value


def model_file(folder: Path, epoch: int | None) -> Path:
    """Return the model in a node's folder, after so many epochs; None: the final one."""
    return folder / ("model.pt" if epoch is None else f"model_{epoch}.pt")


def load_model(model: nn.Module, file: Path) -> None:
    """Give the model what a file of `write_model` holds.

    Raises:
        UserError: the file cannot be read, is damaged or holds another model.
    """
    try:
        check_tensors(file)
        model.load_state_dict(torch.load(file, weights_only=True))
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"--resume: {file} does not hold this model: {one_line(error)}") from None


class Records:
    """One node's records; the first node keeps those of the run besides.

    Args:
        folder: the run's folder, which exists.
        name: of this node's own folder in it.
        log_bytes: of the log, what it holds up to the step from which the run goes on; None for a
            new run, whose folders are made.
        writes: False for a process whose node has another that keeps its records.
    """

    def __init__(
        self, folder: Path, name: str, log_bytes: int | None, *, writes: bool = True
    ) -> None:
        self.folder, self.own = folder, folder / name
        self._events: EventsWriter | None = None
        self._lock: BinaryIO | None = None
        self._log: TextIO | None = None
        if not writes:
            return
        self.own.mkdir(parents=True, exist_ok=log_bytes is not None)
        log = self.own / "log.jsonl"
        self._log = open(log, "a", encoding="utf-8", opener=plain_file)  # noqa: SIM115  # `close`
        if log_bytes is not None and log_bytes < self._log.tell():
            self._log.truncate(log_bytes)
            self._log.seek(0, os.SEEK_END)

    def lead(self, lock: BinaryIO) -> None:
        """Keep what is the whole run's, from now on; `lock` is held as long."""
        self._lock = lock
        folder = self.folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        # Not tensorboardX's SummaryWriter: it writes in a thread of its own, and where that fails,
        # on a full disk, who gives it more waits for ever. A run that is resumed at once must not
        # write over what it has written in this second.
        self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}")

    def log_bytes(self) -> int:
        """Return how long the log is, which lies on the disk now."""
        if self._log is None:
            return 0
        os.fsync(self._log.fileno())
        return self._log.tell()

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write a line of log.jsonl; rank 0 shows its numbers in TensorBoard as well.

        Those of an evaluation stand there also over the bytes that a node has sent, on average.
        """
        if self._log is None:
            return
        json.dump({"kind": kind, "step": step, **values}, self._log, allow_nan=False)
        self._log.write("\n")
        self._log.flush()
        if self._events is None:
            return
        points = [(path, value, step) for path, value in _numbers(values, kind)]
        if "bytes_sent_mean" in values:
            sent = round(values["bytes_sent_mean"])
            points += [
                (path, value, sent) for path, value in _numbers(values, f"{kind}_by_bytes_sent")
            ]
        for path, value, where in points:
            event = Event(summary=scalar(path, value), wall_time=time.time(), step=where)
            self._events.write_event(event)
        self._events.flush()

    def write_config(self, config: Config) -> None:
        """Write it on the node that leads: a folder with config.yaml is a run that can go on."""
        if self._lock is not None:
            write_whole(self.folder / "config.yaml", sealed(to_yaml(config)).encode())

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        write_whole(self.folder / SUMMARY, text.encode())

    def write_partition(self, shares: Sequence[torch.Tensor]) -> None:
        """Write partition.npz: each node's training samples, positions in arrays named by rank."""
        arrays: dict[str, Any] = {str(rank): share.numpy() for rank, share in enumerate(shares)}
        with whole_file(self.folder / "partition.npz") as file:
            np.savez_compressed(file, **arrays)

    def write_model(self, model: nn.Module, epoch: int | None = None) -> None:
        """Write the node's state_dict, for torch.load(weights_only=True); see model_file."""
        if self._log is not None:
            save_tensors(model_file(self.own, epoch), model.state_dict())

    def close(self) -> None:
        for each in (self._log, self._events, self._lock):
            if each is not None:
                each.close()
