"""How a process gets its memory from the system."""

import ctypes
import os

# <malloc.h> of glibc
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
THRESHOLD_BYTES = 1 << 30


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
