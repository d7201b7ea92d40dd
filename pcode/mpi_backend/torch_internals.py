"""The names of torch that are not public and are replaced or called.

Read in torch 2.11, tested with 2.11 and 2.15.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.distributed_c10d import Backend
from torch.futures import Future

Class = TypeVar("Class", bound=type)


def register_backend(runtime: Callable[[], Any]) -> None:
    """Make "mpi" a backend of torch.distributed; is_mpi_available() is True from now on.

    Groups and stores come from the Runtime that is returned when the first one is made.
    """
    if hasattr(Backend, "_ensure_backend_registered"):  # torch 2.14 and later
        Backend.register_backend(
            "mpi",
            lambda options, chosen: runtime().create_group(options, chosen),
            extended_api=True,
            devices=["cpu"],
        )
        # Its flight recorder looks for a backend in C++, which groups in Python do not have.
        recording: set[str] = getattr(distributed_c10d, "_FR_SELF_RECORDING_BACKENDS", set())
        recording.add("mpi")
    else:
        # The name does not go through the registered backends, but through a class that only
        # builds with MPI contain. It gets ranks (none: all), but neither time limit nor name.
        create = staticmethod(lambda ranks: runtime().create_group_of(ranks))
        group_class = type("ProcessGroupMPI", (), {"create": create})
        distributed_c10d.ProcessGroupMPI = group_class  # type: ignore[assignment,misc]
    # For "mpi" init_process_group makes a placeholder, the only call of the name `Store` there.
    distributed_c10d.Store = lambda: runtime().create_store()  # type: ignore[assignment,misc]
    distributed_c10d._MPI_AVAILABLE = True
    assert dist.is_mpi_available()


def hidden_from_dynamo(cls: Class) -> Class:
    """Keep torch.compile from tracing the methods that this class overrides, and what they call.

    Where nothing is compiled Dynamo, which takes seconds to import, stays out of the process.
    """

    def hide(method: Callable[..., Any]) -> Callable[..., Any]:
        disabled = torch._compile._disable_dynamo(method)

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            return (disabled if "torch._dynamo" in sys.modules else method)(*args, **kwargs)

        return call

    for name, member in list(vars(cls).items()):
        if inspect.isfunction(member) and name != "__init__" and hasattr(super(cls, cls), name):
            setattr(cls, name, hide(member))
    return cls


def begin_event(
    name: str, tensors: Sequence[torch.Tensor]
) -> tuple[Future[Any], Future[Any]] | tuple[None, None]:
    """Begin an event with these tensors' shapes in torch's profiler; Nones where none is on.

    To complete the first future ends it; the second is complete when it has ended.
    """
    if not torch._C._autograd._profiler_enabled():
        return None, None
    record = torch._C._autograd._record_function_with_args_enter(name, *tensors)
    end: Future[Any] = Future()
    return end, torch.ops.profiler._call_end_callbacks_on_jit_fut._RecordFunction(record, end)
