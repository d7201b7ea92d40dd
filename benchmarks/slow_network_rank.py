"""One rank of the slow-network benchmark: `slow_network_rank.py OUTPUT OPTIONS`, under mpirun.

OPTIONS is the JSON of `Steps` or `Accuracy`; rank 0 writes what was measured into OUTPUT.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from pcode import mpi_backend
from pcode.communication import Communicator, DistributedCommunicator
from pcode.datasets import load_dataset
from pcode.datasets.partition import partition_indices
from pcode.utils.devices import use_memory_well
from peers import BASE, IMAGE, PEERS, Method, mean, mean_of, random_batch, time_steps

SENT = Path("/sys/class/net/eth0/statistics/tx_bytes")
SEED = 6
MOST_STEPS = 20
# A method one of whose steps takes longer than so many turns has one round only, its first.
MOST_TURNS = 5


@dataclass(frozen=True)
class Steps:
    """Time steps on random images.

    Attributes:
        arch, batch_size: what is trained.
        methods: keys of PEERS, without BASE, which all are compared with.
        rounds: how often each has its turn.
        seconds: about how long a turn lasts.
        gradient_ms: wait so long instead of computing gradients, whose values do not matter.
    """

    arch: str
    batch_size: int
    methods: list[str]
    rounds: int
    seconds: float
    gradient_ms: float | None = None


@dataclass(frozen=True)
class Accuracy:
    """Train on digits (8 x 8, shown four times as large) to a test accuracy, method by method.

    Attributes:
        arch, batch_size: what is trained; batch_size is that of a node.
        methods: keys of PEERS.
        learning_rate: of all.
        target: test top-1 in %, mean over the nodes' models.
        every: steps from one evaluation to the next; the clock stands still meanwhile.
        limit_seconds: after which a method is given up.
    """

    arch: str
    batch_size: int
    methods: list[str]
    learning_rate: float
    target: float
    every: int
    limit_seconds: float


def block(
    method: Method, batch: tuple[torch.Tensor, torch.Tensor], num_steps: int, node: Communicator
) -> dict[str, Any]:
    """The nodes' means of `time_steps`, and the bytes that left a host in a step.

    And each node's own seconds in a step without waiting for messages, "busy".
    """
    sent = int(SENT.read_text())
    rows = time_steps(method, batch, num_steps, node)
    (link_bytes,) = mean(node, [float(int(SENT.read_text()) - sent)])
    busy = [row["total"] - row["wait"] for row in rows]
    return {
        **mean_of(rows),
        "link_bytes": link_bytes / (method.warm_up + num_steps),
        "busy": busy,
    }


def measure_steps(options: Steps, node: Communicator) -> dict[str, Any]:
    """For each method, a row of figures for each round.

    In a round the method's turn follows one without communication, whose time of a step is the
    row's "alone", and on the slowest node "alone_slowest". Method after method, and not one turn of
    each in every round: what has not run for a minute is slow at first, on machines that take idle
    programs' memory away.
    """
    batch = random_batch(options.batch_size, SEED + node.rank)
    # A rate that leaves the models as they are, for as long as it takes.
    base = PEERS[BASE].make(options.arch, 1e-6, node)
    base.gradient_ms = options.gradient_ms
    num_alone = _steps_in(options.seconds, block(base, batch, 1, node)["total"], base)
    rows: dict[str, list[dict[str, Any]]] = {BASE: []}
    for name in options.methods:
        method = PEERS[name].make(options.arch, 1e-6, node)
        method.gradient_ms = options.gradient_ms
        first = block(method, batch, method.steps_per_exchange, node)
        if first["total"] > MOST_TURNS * options.seconds:
            alone = block(base, batch, num_alone, node)
            rows[BASE].append(alone)
            rows[name] = [first | beside(alone)]
            continue
        num_steps = _steps_in(options.seconds, first["total"], method)
        rows[name] = []
        for _ in range(options.rounds):
            rows[BASE].append(block(base, batch, num_alone, node))
            row = block(method, batch, num_steps, node)
            rows[name].append(row | beside(rows[BASE][-1]))
    return rows


def beside(alone: dict[str, Any]) -> dict[str, float]:
    """What a row has of the steps without communication before it."""
    return {"alone": alone["total"], "alone_slowest": max(alone["busy"])}


def _steps_in(seconds: float, step_seconds: float, method: Method) -> int:
    """Whole exchanges with their local steps."""
    several = method.steps_per_exchange
    exchanges = min(MOST_STEPS // several, round(seconds / step_seconds / several))
    return several * max(1, exchanges)


def large_digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs and targets for training, inputs and targets for testing."""
    digits = load_dataset("digits", {})
    every = torch.arange(len(digits.train_targets))
    (train,) = digits.read([every], [0])
    (test,) = digits.test_batches()

    def enlarged(images: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(images, IMAGE[1:]).expand(-1, *IMAGE).contiguous()

    return enlarged(train[0]), train[1], enlarged(test[0]), test[1]


def test_top1(method: Method, inputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Of this node's model, in %."""
    method.model.eval()
    with torch.inference_mode():
        right = sum(
            int((method.model(images).argmax(1) == labels).sum())
            for images, labels in zip(inputs.split(60), targets.split(60), strict=True)
        )
    method.model.train()
    return 100 * right / len(targets)


def measure_accuracy(options: Accuracy, node: Communicator) -> dict[str, Any]:
    """For each method, how test accuracy grew with steps and seconds."""
    train, labels, test, test_labels = large_digits()
    found, rate = {}, options.learning_rate
    for name in options.methods:
        method = PEERS[name].make(options.arch, rate, node)
        method.timer.reset()
        sent, seconds, curve = int(SENT.read_text()), 0.0, []
        order = batches(labels, options.batch_size, node)
        for number in count(1):
            if number % options.every == 1:
                node.barrier()
                begin = time.perf_counter()
            rows = next(order)
            method.step(train[rows], labels[rows])
            if number % options.every == 0:
                method.finish()
                seconds += time.perf_counter() - begin
                top1, passed = mean(node, [test_top1(method, test, test_labels), seconds])
                curve.append({"step": number, "seconds": passed, "test_top1": top1})
                if top1 >= options.target or passed > options.limit_seconds:
                    break
        (bytes_sent,) = mean(node, [float(int(SENT.read_text()) - sent)])
        found[name] = {"learning_rate": rate, "link_bytes": bytes_sent, "curve": curve}
    return found


def batches(labels: torch.Tensor, batch_size: int, node: Communicator) -> Iterator[torch.Tensor]:
    """Rows of this node's batches, without end; every epoch is dealt anew."""
    for epoch in count():
        shares = partition_indices(labels, node.size, "random", SEED, epoch)
        share = shares[node.rank]
        whole = min(map(len, shares)) // batch_size
        yield from share[: whole * batch_size].split(batch_size)


def main() -> None:
    output, text = sys.argv[1:]
    options = json.loads(text)
    # DDP's argument broadcast_buffers has another name from 2.15 on, and both do here.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    torch.set_num_threads(1)
    use_memory_well()
    mpi_backend.init_process_group()
    node = DistributedCommunicator()
    found = (
        measure_accuracy(Accuracy(**options), node)
        if "target" in options
        else measure_steps(Steps(**options), node)
    )
    if node.rank == 0:
        Path(output).write_text(json.dumps(found), encoding="utf-8")
    node.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
