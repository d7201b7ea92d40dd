"""Futures of operations: completed, and their callbacks run, in the same order on all ranks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from torch.futures import Future


class Callbacks:
    """The futures of a group's operations, completed in the order of the operations.

    A callback may start operations and wait for them (PowerSGD's hook does). So that this ends,
    and that all ranks start them in the same order whichever completes first, callbacks run one
    after the other on a thread for their depth: 0 for operations started by the program, 1 for
    those started by callbacks of these, and so on. The operations of a depth are numbered apart.
    """

    _local = threading.local()

    def __init__(self) -> None:
        self._queues: list[SimpleQueue[Callable[[], None]]] = []
        self._lock = threading.Lock()

    @classmethod
    def depth(cls) -> int:
        """That of an operation started now, on this thread."""
        depth: int = getattr(cls._local, "depth", 0)
        return depth

    def add(self, job: Callable[[], None]) -> None:
        """Run this, which may wait, after those added before on the same depth."""
        depth = self.depth()
        with self._lock:
            while len(self._queues) <= depth:
                self._queues.append(SimpleQueue())
                name = f"mpi-callbacks-{len(self._queues)}"
                arguments = (len(self._queues), self._queues[-1])
                threading.Thread(target=self._run, args=arguments, name=name, daemon=True).start()
        self._queues[depth].put(job)

    def _run(self, depth: int, queue: SimpleQueue[Callable[[], None]]) -> None:
        self._local.depth = depth
        while True:
            queue.get()()


class OrderedFuture(Future[Any]):
    """A torch future whose callbacks always run on the thread for their depth.

    torch runs a callback at once, on the thread that adds it, if the future has been completed by
    then: on some ranks and not on others.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        super().__init__()
        self._callbacks = callbacks

    def then(self, callback: Callable[[Future[Any]], Any]) -> OrderedFuture:
        """A future of callback(this future), called when this one has been completed."""
        following = OrderedFuture(self._callbacks)

        def run() -> None:
            with contextlib.suppress(Exception):  # the callback finds it in this future's value
                self.wait()
            try:
                following.set_result(callback(self))
            except Exception as error:  # raised by whoever waits for `following`
                following.set_exception(error)

        self._callbacks.add(run)
        return following

    def add_done_callback(self, callback: Callable[[Future[Any]], None]) -> None:
        """Call callback(this future) when this one has been completed."""
        self.then(callback)
