"""A rank that takes some CHOCO steps on ResNet-20 and does nothing else over MPI."""

from __future__ import annotations

import json
import sys

from torch.distributed import destroy_process_group

from pcode import mpi_backend
from pcode.communication import DistributedCommunicator
from pcode.compression import make_compressor
from pcode.models import make_model
from pcode.optim import ParallelChoco
from pcode.topology import make_topology


def main(num_steps: int, name: str, options: str) -> None:
    mpi_backend.init_process_group()
    node = DistributedCommunicator()
    optimizer = ParallelChoco(
        make_model("resnet20", (3, 32, 32), 10, seed=1, flags={}).parameters(),
        node,
        make_topology("ring", node.size),
        compressor=make_compressor(name, **json.loads(options)),
        consensus_stepsize=0.4,
        lr=0.1,
    )
    for _ in range(num_steps):
        optimizer.step()
    optimizer.finish()
    message_bytes = optimizer.message_bytes_of(optimizer.layout, optimizer.compressor)
    print(message_bytes, node.bytes_sent, flush=True)
    destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
