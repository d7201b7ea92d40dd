"""How often each rank takes part in splits of NCCL's communicator, as nodes of two are made.

    mpirun -n 4 python -m tests.communication.splits

Gloo is in NCCL's place: its group seems to be bound to a GPU and to be one that is split. Each
rank prints its number of splits, which have to be the same: all ranks of a communicator take part
in one.
"""

from __future__ import annotations

import json
from datetime import timedelta
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend

from pcode.communication import DistributedCommunicator, by_nodes, distributed
from pcode.communication.connect import disconnect
from tests.communication.contract import join
from tests.support.cases import LIMIT

LOCAL_SIZE = 2


class Splits(Backend):
    """What a bound group is split by; counts."""

    supports_splitting = True

    def __init__(self) -> None:
        super().__init__(dist.get_rank(), dist.get_world_size())
        self.number = 0

    def perform_nocolor_split(self, device: torch.device) -> None:
        """Take part in the split of a group of others."""
        self.number += 1


def main() -> None:
    """Run one rank."""
    limit = LIMIT.total_seconds()
    join("gloo", 1, limit)
    host_group = distributed.new_group(None, timedelta(seconds=limit), "gloo")
    processes = DistributedCommunicator(host_group=host_group)
    splits, make = Splits(), distributed.new_group

    def counting(
        ranks: list[int] | None, limit: timedelta, backend: str | None = None
    ) -> dist.ProcessGroup | None:
        made = make(ranks, limit, backend)
        splits.number += backend is None and made is not None
        return made

    distributed.new_group = counting
    bound = dist.group.WORLD
    assert bound is not None
    bound.bound_device_id = torch.device("cuda", 0)
    with patch.object(type(bound), "_get_backend", lambda group, device: splits):
        node = by_nodes(processes, LOCAL_SIZE, limit)
    gathered = node.all_gather(torch.tensor([node.rank]))
    assert [int(each) for each in gathered] == list(range(node.size))
    print(json.dumps({"rank": processes.rank, "splits": splits.number}), flush=True)
    disconnect(processes)  # not by way of a GPU, which is not there


if __name__ == "__main__":
    main()
