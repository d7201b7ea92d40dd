"""Scalars for TensorBoard, written where they are given."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.summary import scalar


class EventWriter:
    """A new event file in a folder.

    tensorboardX's SummaryWriter writes in a thread of its own; where that fails, on a full disk,
    who gives it more waits for ever. This one raises.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        # A run that is resumed at once must not write over what it has written in this second.
        self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}")

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """One point of a curve."""
        event = Event(summary=scalar(tag, value), wall_time=time.time(), step=step)
        self._events.write_event(event)

    def flush(self) -> None:
        """Hand what was given to the system."""
        self._events.flush()

    def close(self) -> None:
        self._events.close()
