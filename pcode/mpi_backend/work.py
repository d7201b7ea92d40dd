"""The torch.distributed.Work of an operation over MPI, and its future.

Futures are completed, and their callbacks run, in the same order on all ranks.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import torch
from torch.distributed import Work
from torch.futures import Future

from pcode.mpi_backend.operation import Operation, Steps
from pcode.mpi_backend.progress import Progress
from pcode.mpi_backend.torch_internals import begin_event, hidden_from_dynamo
from pcode.mpi_backend.world import World

# Of jobs; None ends the thread.
Queue = SimpleQueue[Callable[[], None] | None]


class Callbacks:
    """The futures of a group's operations, completed in the order of the operations.

    A callback may start operations and wait for them (PowerSGD's hook does). So that this ends,
    and that all ranks start them in the same order whichever completes first, callbacks run one
    after the other on a thread for their depth: 0 for operations started by the program, 1 for
    those started by callbacks of these, and so on. The operations of a depth are numbered apart.
    """

    _local = threading.local()

    def __init__(self) -> None:
        self._queues: list[Queue] = []
        self._lock = threading.Lock()
        self._has_stopped = False

    @classmethod
    def depth(cls) -> int:
        """Return that of an operation started now, on this thread."""
        depth: int = getattr(cls._local, "depth", 0)
        return depth

    def add(self, job: Callable[[], None]) -> None:
        """Run this, which may wait, after those added before on the same depth."""
        depth = self.depth()
        with self._lock:
            if self._has_stopped:
                queue = self._begin(depth)
                queue.put(job)
                queue.put(None)
                return
            while len(self._queues) <= depth:
                self._queues.append(self._begin(len(self._queues)))
            self._queues[depth].put(job)

    def stop(self) -> None:
        """End the threads once they have run what was added; what comes later has its own."""
        with self._lock:
            self._has_stopped = True
            for queue in self._queues:
                queue.put(None)

    def _begin(self, depth: int) -> Queue:
        """Start a thread that runs what is put into this queue, until a None."""
        queue = Queue()
        name = f"mpi-callbacks-{depth + 1}"
        threading.Thread(target=self._run, args=(depth + 1, queue), name=name, daemon=True).start()
        return queue

    def _run(self, depth: int, queue: Queue) -> None:
        self._local.depth = depth
        while (job := queue.get()) is not None:
            job()


class OrderedFuture(Future[Any]):
    """A torch future whose callbacks always run on the thread for their depth.

    torch runs a callback at once, on the thread that adds it, if the future has been completed by
    then: on some ranks and not on others.
    """

    def __init__(self, callbacks: Callbacks) -> None:
        super().__init__()
        self._callbacks = callbacks

    def then(self, callback: Callable[[Future[Any]], Any]) -> OrderedFuture:
        """Return a future of callback(this future), called when this one has been completed."""
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


@hidden_from_dynamo
class MPIWork(Operation, Work):
    """An operation that torch's users wait for, an event in torch's profiler.

    `result` are the tensors that its future holds, `inputs` those whose shapes the profiler shows;
    where it is `in_background` the helper thread moves it on while nobody waits.
    """

    def __init__(
        self,
        name: str,
        steps: Steps,
        result: list[torch.Tensor],
        inputs: Sequence[torch.Tensor],
        *,
        world: World,
        progress: Progress,
        callbacks: Callbacks,
        limit: float,
        one_step: bool,
        in_background: bool,
    ) -> None:
        Work.__init__(self)
        self._result, self._progress, self._callbacks = result, progress, callbacks
        self._in_background = in_background
        self._future: OrderedFuture | None = None
        self._event: Future[Any] | None
        self._recorded: Future[Any] | None
        self._event, self._recorded = begin_event(f"mpi:{name}", inputs)
        Operation.__init__(self, name, steps, world=world, limit=limit, one_step=one_step)
        if in_background and not self.done:
            progress.add(self)
        if self.done:
            self.signal()

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return True when the operation has ended.

        The timeout holds instead of the group's time limit unless it is zero or less.

        Raises:
            MPIError: time limit, error of MPI, or another rank reported one.
        """
        if not self.poll():
            seconds = timeout.total_seconds() if timeout is not None else 0.0
            self._progress.drive(self, seconds if seconds > 0 else self.limit)
        if self.error is not None:
            raise self.error
        if self._recorded is not None:
            self._recorded.wait()  # the profiler may end after this
        return True

    def signal(self) -> None:
        super().signal()
        event, self._event = self._event, None
        if event is not None:
            # torch takes events for asynchronous that end on another thread.
            threading.Thread(target=event.set_result, args=(None,), daemon=True).start()

    def get_future(self) -> OrderedFuture:
        with self._lock:
            if self._future is not None:
                return self._future
            self._future, self.ended = OrderedFuture(self._callbacks), threading.Event()
        self._callbacks.add(self._resolve)
        self._progress.hurry()
        if self.done:
            self.signal()
        elif not self._in_background:
            self._progress.add(self)
        return self._future

    def _resolve(self) -> None:
        assert self._future is not None
        assert self.ended is not None
        self.ended.wait()
        if self.error is None:
            self._future.set_result(self._result)
        else:
            self._future.set_exception(self.error)

    def is_completed(self) -> bool:
        return self.poll()

    def is_success(self) -> bool:
        return self.poll() and self.error is None

    def exception(self) -> Exception | None:
        return self.error

    def result(self) -> list[torch.Tensor]:
        return self._result

    def synchronize(self) -> None:
        self.wait()

    def source_rank(self) -> int:
        """After a receive, the sender's rank in the group."""
        return self.source

    _source_rank = source_rank
