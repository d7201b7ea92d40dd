"""The contract of every communicator, as checks that all nodes of a run call together.

Under sim the test calls them in its own process, under mpi and gloo the ranks of world.py do. As a
program of the ranks, `contract.py BACKEND NUM_PARTS` is a run in which one node stops, with so many
processes to a node. `BACKEND+staged` stages the tensors of a device, as with a GPU, and
`BACKEND+direct` hands them over where they lie; here the device is the CPU, whose streams do
nothing. `gloo+beside` has a second group of gloo's for host memory, as beside NCCL.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pcode.communication import (
    Communicator,
    DistributedCommunicator,
    ProcessCommunicator,
    by_nodes,
)
from pcode.communication.base import AVERAGED_ENTRIES
from pcode.communication.connect import abort, connect
from pcode.communication.distributed import new_group
from pcode.communication.gathering import sums, sums_on_first
from pcode.communication.staging import StagedCommunicator
from pcode.launch.environment import detect, rendezvous_address
from pcode.utils.errors import CommunicationError
from tests.support.cases import Checks

LIMIT_SECONDS = 3.0
SILENT_RANK = 1


def neighbours(node: Communicator) -> list[int]:
    """The two sides of a ring, one where they are the same."""
    sides = {(node.rank - 1) % node.size, (node.rank + 1) % node.size}
    return sorted(sides - {node.rank})


def check_every_message_arrives(node: Communicator) -> None:
    for dtype in (torch.uint8, torch.float32, torch.int64):
        for size in (1, 1000, 100_003):
            mine = torch.arange(size).add(node.rank).to(dtype)
            got = {peer: torch.zeros(size, dtype=dtype) for peer in neighbours(node)}
            node.exchange(dict.fromkeys(got, mine), got).wait()
            for peer, tensor in got.items():
                assert torch.equal(tensor, torch.arange(size).add(peer).to(dtype)), (dtype, size)


def check_nodes_that_live_answer(node: Communicator) -> None:
    node.check_peers(1)


def check_peers_may_get_different_messages(node: Communicator) -> None:
    peers = neighbours(node)
    got = {peer: torch.zeros(5) for peer in peers}
    node.exchange({peer: torch.full((5,), 100.0 * node.rank + peer) for peer in peers}, got).wait()
    for peer, tensor in got.items():
        assert torch.equal(tensor, torch.full((5,), 100.0 * peer + node.rank))


def check_exchanges_in_flight_arrive_in_order(node: Communicator) -> None:
    peers = neighbours(node)
    rounds = [{peer: torch.zeros(3000) for peer in peers} for _ in range(4)]
    sent = [torch.full((3000,), 10.0 * node.rank + number) for number in range(4)]
    exchanges = [
        node.exchange(dict.fromkeys(peers, mine), got, step=number)
        for number, (mine, got) in enumerate(zip(sent, rounds, strict=True))
    ]
    # What a tensor gets is settled by the order of the calls, not of the waits.
    for number in (1, 0, 3, 2):
        exchanges[number].wait()
        for peer, tensor in rounds[number].items():
            assert torch.equal(tensor, torch.full((3000,), 10.0 * peer + number))


def check_buffers_may_be_reused_after_wait(node: Communicator) -> None:
    peers = neighbours(node)
    mine = torch.zeros(50_000)
    got = {peer: torch.zeros(50_000) for peer in peers}
    for number in range(20):
        mine.fill_(node.rank + 7.0 * number)
        node.exchange(dict.fromkeys(peers, mine), got).wait()
        for peer, tensor in got.items():
            assert float(tensor[0]) == float(tensor[-1]) == peer + 7.0 * number


def check_bytes_are_counted(node: Communicator) -> None:
    peers, before = neighbours(node), node.bytes_sent
    got = {peer: torch.zeros(777, dtype=torch.uint8) for peer in peers}
    node.exchange(dict.fromkeys(peers, torch.ones(777, dtype=torch.uint8)), got).wait()
    assert node.bytes_sent - before == 777 * len(peers)


def check_all_reduce_sums(node: Communicator) -> None:
    n = node.size
    tensor = torch.arange(1000, dtype=torch.float32) * (node.rank + 1)
    node.all_reduce(tensor)
    assert torch.equal(tensor, torch.arange(1000, dtype=torch.float32) * (n * (n + 1) / 2))
    tensor = torch.full((10,), float(node.rank), dtype=torch.float64)
    node.all_reduce_mean(tensor)
    assert torch.equal(tensor, torch.full((10,), (n - 1) / 2, dtype=torch.float64))


def check_all_gather_is_in_the_order_of_ranks(node: Communicator) -> None:
    for dtype in (torch.uint8, torch.float64):
        gathered = node.all_gather(torch.full((4,), node.rank + 1, dtype=dtype))
        assert [tensor.tolist() for tensor in gathered] == [
            [rank + 1] * 4 for rank in range(node.size)
        ]


def check_average_adds_in_the_order_of_ranks(node: Communicator) -> None:
    size = AVERAGED_ENTRIES + 5 if node.size < 8 else 5
    draws = [
        np.random.default_rng(rank).normal(size=size).astype(np.float32)
        for rank in range(node.size)
    ]
    tensor = torch.tensor(draws[node.rank])
    node.average(tensor)
    total = draws[0].copy()
    for draw in draws[1:]:
        total += draw
    assert np.array_equal(tensor.numpy(), total / np.float32(node.size))


def check_barrier_waits_for_all(node: Communicator) -> None:
    """Every process leaves a mark before the barrier, and finds all marks behind it."""
    made = tempfile.mkdtemp() if node.is_first else ""
    padded = made.encode().ljust(500)
    folder = Path(bytes(node.all_gather(torch.tensor(list(padded)))[0].tolist()).decode().strip())
    for number in range(3):
        (folder / f"{number}.{node.process}").touch()
        node.barrier()
        marks = list(folder.glob(f"{number}.*"))
        assert len(marks) == node.size * node.local_ranks.size
    node.barrier()
    if node.is_first:
        shutil.rmtree(folder)


def draw(*numbers: int) -> torch.Tensor:
    """Numbers whose sums are rounded."""
    return torch.tensor(np.random.default_rng(numbers).normal(size=1000).astype(np.float32))


def check_a_node_says_what_its_first_process_says(node: Communicator) -> None:
    own = draw(node.rank) if node.local_ranks.is_first else torch.full((1000,), torch.nan)
    peers = neighbours(node)
    got = {peer: torch.zeros(1000) for peer in peers}
    node.exchange(dict.fromkeys(peers, own), got).wait()
    assert all(torch.equal(tensor, draw(peer)) for peer, tensor in got.items())
    draws = [draw(rank) for rank in range(node.size)]
    assert all(map(torch.equal, node.all_gather(own), draws))
    for reduce in (node.all_reduce_mean, node.average):
        mean = own.clone()
        reduce(mean)
        assert torch.allclose(mean, torch.stack(draws).mean(dim=0), atol=1e-6)


def check_processes_of_a_node_get_the_same_bits(node: Communicator) -> None:
    local, found = node.local_ranks, draw(node.rank)
    node.all_reduce(found)
    inside = draw(node.rank, local.rank)
    local.all_reduce(inside)
    both = torch.cat([found, inside])
    assert all(torch.equal(other, both) for other in local.all_gather(both))
    want = sum(draw(node.rank, rank) for rank in range(local.size))
    assert torch.allclose(inside, torch.as_tensor(want), atol=1e-5)


def check_an_exchange_goes_on_beside_a_sum_inside_the_node(node: Communicator) -> None:
    peers, local = neighbours(node), node.local_ranks
    got = {peer: torch.empty_like(draw(peer)) for peer in peers}
    under_way = node.exchange(dict.fromkeys(peers, draw(node.rank)), got)
    inside = draw(node.rank, local.rank)
    local.all_reduce(inside)
    under_way.wait()
    assert all(torch.equal(tensor, draw(peer)) for peer, tensor in got.items())
    want = sum(draw(node.rank, rank) for rank in range(local.size))
    assert torch.allclose(inside, torch.as_tensor(want), atol=1e-5)


def check_numbers_are_summed_on_the_first_process_of_a_node(node: Communicator) -> None:
    local = node.local_ranks
    own = [float(node.rank), 10.0**local.rank]
    want = [float(node.rank * local.size), sum(10.0**rank for rank in range(local.size))]
    assert sums(local, own) == want
    collected = sums_on_first(local, own)
    assert collected == (want if local.is_first else [0.0, 0.0])
    assert sums_on_first(local, collected) == collected


CHECKS: dict[str, Callable[[Communicator], None]] = {
    name: value for name, value in list(globals().items()) if name.startswith("check_")
}


def checks_of(node: Communicator) -> Checks:
    """All of them, on one process."""
    return {name: partial(check, node) for name, check in CHECKS.items()}


def wait_for_the_silent_rank(node: Communicator) -> str:
    """Exchange in a ring where one rank has stopped; the error of this rank.

    Or, where exchanges do not name it, ask for it.
    """
    peers = neighbours(node)
    try:
        for step in range(100):
            if node.names_peers:
                got = {peer: torch.zeros(10) for peer in peers}
                node.exchange(dict.fromkeys(peers, torch.zeros(10)), got, step).wait()
            else:
                node.check_peers(step)
            if node.rank == SILENT_RANK and step == 2:
                signal.pause()  # ended with the job
    except CommunicationError as error:
        return str(error)
    raise AssertionError("no error")


def join(backend: str, local_size: int, limit: float) -> Communicator:
    """Join the other ranks, and return this one's view of the nodes."""
    place = detect()
    assert place is not None
    backend, _, way = backend.partition("+")
    processes: ProcessCommunicator = connect(
        backend,
        place.rank,
        place.num_ranks,
        device=torch.device("cpu"),
        limit_seconds=limit,
        address=rendezvous_address(),
    )
    if way == "beside":
        host_group = new_group(None, timedelta(seconds=limit), "gloo")
        processes = DistributedCommunicator(host_group=host_group)
    elif way:
        direct = way == "direct"
        processes = StagedCommunicator(processes, torch.device("cpu"), takes_device=direct)
    return by_nodes(processes, local_size, limit)


def main(backend: str, local_size: int) -> None:
    node = join(backend, local_size, LIMIT_SECONDS)
    error = wait_for_the_silent_rank(node)
    print(json.dumps({"rank": node.rank, "error": error}), flush=True)
    abort("ended by the test")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
