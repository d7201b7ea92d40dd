"""A program that reads a batch in worker processes, and then closes the iterator or is killed.

Prints the numbers of its descendants in a line: while it reads, and once the iterator is closed.
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


def main(data_dir: str, how: str) -> None:
    flags = {"data_dir": data_dir, "use_lmdb_data": False, "num_workers": 2, "pin_memory": False}
    dataset = load_dataset("imagenet", flags)
    batches = dataset.read([torch.tensor([index % 3]) for index in range(50)], range(50))
    next(batches)
    print(descendants(), flush=True)
    if how == "close":
        batches.close()  # type: ignore[attr-defined]  # it is a generator
        print(descendants(), flush=True)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
