"""What a node computes with: how many CPU threads, which GPU, and its memory."""

import ctypes
import math
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from joblib.externals.loky import cpu_count

from pcode.utils.errors import HostError, UserError

# <malloc.h> of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
THRESHOLD_BYTES = 1 << 30


def threads_per_node(
    num_threads: int | None,
    nodes_on_this_machine: int,
    environ: Mapping[str, str] = os.environ,
    num_cores: int | None = None,
) -> int:
    """Return a node's CPU threads: --num_threads, else OMP_NUM_THREADS, else its share of cores.

    The cores, unless given, are those that this process may use, in a container no more than its
    limit, of which a share of a core counts as one. A list in OMP_NUM_THREADS is one number for
    each level of nested parallelism: the first counts.

    Raises:
        UserError: OMP_NUM_THREADS is not a positive whole number.
    """
    if num_threads is not None:
        return num_threads
    text = environ.get("OMP_NUM_THREADS")
    if text is not None:
        first = text.split(",")[0].strip()
        if not re.fullmatch(r"[0-9]{1,6}", first, re.ASCII) or int(first) == 0:
            raise UserError(
                f"OMP_NUM_THREADS={text!r} in the environment: expected a positive whole number; "
                "--num_threads overrides it"
            )
        return int(first)
    return max(1, (num_cores or int(cpu_count())) // nodes_on_this_machine)


def device_of(on_cuda: bool | None, world: Sequence[int], process: int) -> torch.device:
    """Return the device of a process of the run: by `world`, gone through again and again.

    Args:
        process: its number among all of the run, node after node.
    """
    if not on_cuda:
        return torch.device("cpu")
    return torch.device("cuda", world[process % len(world)])


def check_gpus(world: Sequence[int], processes: Sequence[int]) -> None:
    """Raise UserError for GPUs that are not there; for the processes that run on this machine.

    Raises:
        HostError: there is no GPU, none of a number in `world`, or nothing to make kernels with.
    """
    if not processes:
        return
    if not torch.cuda.is_available():
        raise HostError(
            "--on_cuda True: this machine has no GPU that torch can use; --on_cuda False"
        )
    _check_kernels()
    count = torch.cuda.device_count()
    missing = sorted({world[process % len(world)] for process in processes} - set(range(count)))
    if missing:
        raise HostError(
            f"--world {','.join(map(str, world))}: no GPU {', '.join(map(str, missing))} "
            f"on this machine, which has {count}"
        )


def _check_kernels() -> None:
    """Raise UserError on a machine that cannot make the kernels for GPUs."""
    flag, instead = "--on_cuda True", "or --on_cuda False"
    if find_spec("triton") is None:
        raise HostError(f"{flag}: its kernels need Triton: pip install triton, {instead}")
    check_compiler(flag, "C", "CC", ("gcc", "clang"), instead)
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        raise HostError(
            f"{flag}: its kernels are compiled with Python's headers, which are not there: "
            f"install python{sys.version_info.major}.{sys.version_info.minor}-dev, {instead}"
        )


def check_compiler(
    flag: str, language: str, variable: str, names: Sequence[str], instead: str
) -> None:
    """Raise UserError for a flag that needs a compiler where there is none.

    Args:
        variable: of the environment, that may name one.
        names: of those that are looked for.
        instead: what would do without one.
    """
    if variable not in os.environ and not any(map(shutil.which, names)):
        raise HostError(
            f"{flag}: needs a {language} compiler: install {' or '.join(names)}, set {variable}, "
            f"{instead}"
        )


def gpu_notices(world: Sequence[int], num_processes: int) -> list[str]:
    """Say where a run on GPUs has fewer of them than processes."""
    if len(world) >= num_processes:
        return []
    return [
        f"--world {','.join(map(str, world))}: {len(world)} GPU ids for {num_processes} processes; "
        "they are gone through again from the first"
    ]


def use_memory_well() -> None:
    """Keep freed memory in the process, and let large tensors have huge pages.

    A step of ResNet-20 on 3 x 32 x 32 images frees its activations and faults some 25 MB of fresh
    pages back in, which takes 5 to 10 % of its time and more on a busy machine. Only glibc can
    keep them; elsewhere nothing happens. The process holds on to the most that it has
    needed. To be called before torch allocates its first tensor, which is when it looks for its
    variable; a user's own setting of that wins.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, THRESHOLD_BYTES)
        mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on that device; itself where it is there.

    Out of page-locked memory, so that the copy is queued and nobody waits for it. Its memory is
    used again only when the copy has run: torch sees to it.
    """
    if tensor.device == device:
        return tensor
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@lru_cache(maxsize=64)
def cached_on(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the same for one of a few that never change: copied once."""
    return to_device(tensor, device)


def moved_together(tensors: Sequence[torch.Tensor], device: torch.device) -> Sequence[torch.Tensor]:
    """One-dimensional tensors on that device, by one copy."""
    if device.type == "cpu" or not tensors:
        return tensors
    moved = to_device(torch.cat(list(tensors)), device)
    return list(torch.split(moved, [len(tensor) for tensor in tensors]))


def memory_bytes(device: torch.device) -> float:
    """Return all of a GPU's; of the host's no limit: what lies there lies there already."""
    if device.type != "cuda":
        return math.inf
    return torch.cuda.get_device_properties(device).total_memory
