"""A program that reads in worker processes, closes the iterator, reads again and is killed.

Prints the numbers of its descendants in a line: while it reads, once the iterator is closed, and
while it reads again.
"""

from __future__ import annotations

import os
import signal
import sys

import psutil
import torch

from pcode.datasets import load_dataset


def descendants() -> str:
    return " ".join(str(child.pid) for child in psutil.Process().children(recursive=True))


def main(data_dir: str) -> None:
    flags = {"data_dir": data_dir, "use_lmdb_data": False, "num_workers": 2, "pin_memory": False}
    dataset = load_dataset("imagenet", flags)
    several = [torch.tensor([index % 3]) for index in range(50)]
    batches = dataset.read(several, range(50))
    next(batches)
    print(descendants(), flush=True)
    batches.close()
    print(descendants(), flush=True)
    again = dataset.read(several, range(50))
    next(again)
    print(descendants(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
