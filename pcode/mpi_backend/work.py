"""The torch.distributed.Work of an operation over MPI."""

import threading
from datetime import timedelta

import torch
from torch.distributed import Work

from pcode.mpi_backend.future import Callbacks, OrderedFuture
from pcode.mpi_backend.operation import Operation, Steps
from pcode.mpi_backend.progress import Progress
from pcode.mpi_backend.world import World


class MPIWork(Operation, Work):
    """An operation that torch's users wait for.

    Args:
        result: the tensors that a future of this operation holds.
        callbacks: where its future is completed.
        in_background: whether the helper thread moves it on while nobody waits.
        name, steps, world, limit, one_step: see Operation.
    """

    def __init__(
        self,
        name: str,
        steps: Steps,
        result: list[torch.Tensor],
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
        Operation.__init__(self, name, steps, world=world, limit=limit, one_step=one_step)
        if in_background and not self.done:
            progress.add(self)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Return True when the operation has ended.

        Args:
            timeout: instead of the group's time limit; zero or less stands for the latter.

        Raises:
            MPIError: time limit, error of MPI, or another rank reported one.
        """
        if not self.poll():
            seconds = timeout.total_seconds() if timeout is not None else 0.0
            self._progress.drive(self, seconds if seconds > 0 else self.limit)
        if self.error is not None:
            raise self.error
        return True

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
