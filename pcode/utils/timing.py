"""Where the time of a step goes."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("data", "forward", "backward", "local_update", "compress", "wait", "mix")


class StepTimer:
    """Seconds spent in each part of a step, summed since the last `reset`.

    On a GPU they are the seconds between two places of its stream of work: what it did in the part,
    or waited for. They are known once it has come there; nobody waits for that but `synchronize`.

    Args:
        device: where the work is done.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._on_gpu = device is not None and device.type == "cuda"
        self._ahead: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of the block to `part`, one of PARTS."""
        if self._on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            try:
                yield
            finally:
                end.record()
                self._ahead.append((part, begin, end))
                self._add_up()
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def _add_up(self) -> None:
        """Count what the GPU has come to the end of."""
        while self._ahead and self._ahead[0][2].query():
            part, begin, end = self._ahead.popleft()
            self.seconds[part] += begin.elapsed_time(end) / 1e3

    def synchronize(self) -> None:
        """Wait until all that was timed has been done."""
        if self._ahead:
            self._ahead[-1][2].synchronize()
            self._add_up()

    def reset(self) -> None:
        self.synchronize()
        self.seconds = dict.fromkeys(PARTS, 0.0)
