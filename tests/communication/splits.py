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

from pcode.communication import DistributedCommunicator, by_nodes, distributed
from pcode.communication.connect import disconnect
from tests.communication.contract import join
from tests.support.cases import LIMIT

LOCAL_SIZE = 2


def main() -> None:
    """Run one rank."""
    limit = LIMIT.total_seconds()
    join("gloo", 1, limit)
    host_group = distributed.new_group(None, timedelta(seconds=limit), "gloo")
    processes = DistributedCommunicator(host_group=host_group)
    make, num_splits = distributed.new_group, 0

    def counting(
        ranks: list[int] | None, limit: timedelta, backend: str | None = None
    ) -> dist.ProcessGroup | None:
        nonlocal num_splits
        made = make(ranks, limit, backend)
        num_splits += backend is None and made is not None
        return made

    def take_part(group: dist.ProcessGroupGloo, device: torch.device) -> None:
        """Be no member of a group that others split off."""
        nonlocal num_splits
        num_splits += 1

    bound = dist.group.WORLD
    assert bound is not None
    bound.bound_device_id = torch.device("cuda", 0)
    gloo = dist.ProcessGroupGloo
    with (
        patch.object(distributed, "new_group", counting),
        patch.object(gloo, "supports_splitting", True),
        patch.object(gloo, "perform_nocolor_split", take_part, create=True),
    ):
        node = by_nodes(processes, LOCAL_SIZE, limit)
    gathered = node.all_gather(torch.tensor([node.rank]))
    assert [int(each) for each in gathered] == list(range(node.size))
    print(json.dumps({"rank": processes.rank, "splits": num_splits}), flush=True)
    with patch.object(dist, "barrier", wraps=dist.barrier) as barrier:
        disconnect(processes)
    # Not by way of a GPU: NCCL would end a rank that waits in vain by SIGABRT, and name nobody.
    assert [call.args for call in barrier.call_args_list] == [(host_group,)]


if __name__ == "__main__":
    main()
