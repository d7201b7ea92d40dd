"""Every optimizer with every compressor on one node of several: what it ends with, as a digest.

Under mpirun, `python -m tests.optim.pairings FOLDER` does it over gloo and over mpi, and each rank
writes FOLDER/BACKEND.RANK.json.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from pcode.communication import Communicator
from pcode.communication.connect import connect, disconnect
from pcode.compression import make_compressor
from pcode.config import make_config
from pcode.launch.environment import detect, rendezvous_address
from pcode.optim import OPTIMIZERS, DecentralizedOptimizer, make_optimizer, optimizer_class
from pcode.optim.overlapping import OverlappingOptimizer
from pcode.topology import Graph, make_graph
from pcode.topology.binary_tree import Trees
from pcode.utils.errors import UserError
from tests.support.cases import LIMIT, Checks, go_through

NUM_STEPS = 6
Compressions = tuple[tuple[str, dict[str, Any]], ...]
COMPRESSIONS: Compressions = (
    ("none", {}),
    ("sign", {}),
    ("compress_top_k", {"compress_ratio": 0.9}),
    ("compress_random_k", {"compress_ratio": 0.9, "is_biased": False}),
    ("quantize_qsgd", {"quantize_level": 4, "is_biased": True}),
)
# Every other form, with CHOCO on the ring.
FORMS: Compressions = (
    ("compress_top_k", {"compress_ratio": 0.0}),
    ("compress_random_k", {"compress_ratio": 0.5, "is_biased": True}),
    *(
        ("quantize_qsgd", {"quantize_level": level, "is_biased": biased})
        for level in (1, 2, 4, 8, 16, 32)
        for biased in (True, False)
    ),
)
GRAPHS = ("ring", "star", "complete", "one_peer_exponential", "random_matching")


class Pairing(NamedTuple):
    optimizer: str
    graph: str
    compression: str
    options: dict[str, Any]
    overlap: bool
    flags: dict[str, Any]


TOP, RANDOM = COMPRESSIONS[2], COMPRESSIONS[3]
DGC = {"mask_momentum": True, "clip_grad": True, "clip_grad_val": 1.0, "compress_warmup_epochs": 2}
PROMPT = {"mix_promptly": True, "power_iterations": 2}
VARIANTS = (
    Pairing("parallel_choco", "ring", *RANDOM, True, {"local_step": 2}),
    Pairing("ecd_psgd", "ring", *RANDOM, True, {"local_step": 3, "turn_on_local_step_from": 1}),
    Pairing("dcd_psgd", "star", *TOP, True, {"local_optimizer": "adam"}),
    Pairing("sgd", "random_matching", *COMPRESSIONS[0], False, {"local_step": 2}),
    Pairing("ef_sign_sgd", "complete", *TOP, False, {"majority_vote": True}),
    Pairing("dgc", "complete", *TOP, False, DGC),
    Pairing("power_gossip", "ring", *COMPRESSIONS[0], True, {"gossip_rank": 2, "local_step": 2}),
    Pairing("power_gossip", "star", *COMPRESSIONS[0], False, {"local_optimizer": "adam"}),
    Pairing("power_gossip", "ring", *COMPRESSIONS[0], False, PROMPT),
    Pairing("sgp", "directed_exponential", *COMPRESSIONS[0], False, {}),
    Pairing("relay", "double_binary_trees", *COMPRESSIONS[0], False, {}),
    *(
        Pairing(optimizer, graph, *COMPRESSIONS[0], False, {"drop_messages": 0.3})
        for optimizer, graph in (
            *(("sgd", "ring"), ("decentralized_qg_sgd", "random_matching"), ("d2", "star")),
            *(("decentlam", "ring"), ("sgp", "ring"), ("relay", "star")),
        )
    ),
)


def pairings() -> Iterator[Pairing]:
    """All that is not refused."""
    for optimizer in OPTIMIZERS:
        for graph_name in GRAPHS:
            graph = make_graph(graph_name, 4)
            kind = optimizer_class(optimizer, graph)
            tried = COMPRESSIONS if kind.compresses else COMPRESSIONS[:1]
            if (optimizer, graph_name) == ("parallel_choco", "ring"):
                tried += FORMS
            for compression, options in tried:
                try:
                    kind.validate(graph, compressor=make_compressor(compression, **options))
                except UserError:
                    continue
                for overlap in (
                    (True, False) if issubclass(kind, OverlappingOptimizer) else (False,)
                ):
                    yield Pairing(optimizer, graph_name, compression, options, overlap, {})
    yield from VARIANTS


_DEFAULTS = make_config().flat()


def optimizer_of(
    pairing: Pairing, model: nn.Module, node: Communicator, graph: Graph
) -> DecentralizedOptimizer:
    """The pairing's optimizer on a node."""
    flags = {
        "consensus_stepsize": 0.05,
        "overlap": pairing.overlap,
        "optimizer": pairing.optimizer,
        "lr": 0.05,
        "weight_decay": 0.0,
        "manual_seed": 3,
        **pairing.flags,
    }
    compressor = make_compressor(pairing.compression, **pairing.options)
    parameters = model.named_parameters()
    return make_optimizer(parameters, node, graph, make_config(**flags).flat(), compressor)


def message_bytes(pairing: Pairing, optimizer: DecentralizedOptimizer) -> int:
    """Those of a message at this epoch."""
    flags = {**_DEFAULTS, "graph_topology": pairing.graph, **pairing.flags}
    options = {**pairing.options}
    if optimizer.epoch < pairing.flags.get("compress_warmup_epochs", 0):
        options["compress_ratio"] = flags["compress_warmup_values"][int(optimizer.epoch)]
    compressor = make_compressor(pairing.compression, **options)
    return optimizer.message_bytes_of(optimizer.layout, compressor, **flags)


def sent_bytes(
    pairing: Pairing, optimizer: DecentralizedOptimizer, graph: Graph, round_: int
) -> int:
    """Those that this node sends in a round."""
    rank = optimizer.communicator.rank
    if isinstance(graph, Trees):  # each carries its part of x, and a number
        parts = optimizer.x.tensor_split(len(graph.trees))
        both = zip(graph.trees, parts, strict=True)
        return sum(tree.degree(rank) * 4 * (len(part) + 1) for tree, part in both)
    messages: int = len(graph.at(round_).receivers(rank)) * pairing.flags.get("power_iterations", 1)
    return messages * message_bytes(pairing, optimizer)


def train(node: Communicator, pairing: Pairing) -> str:
    """A few steps on data of the node's own; digest of parameters and vectors, and bytes sent.

    Raises:
        AssertionError: the bytes are not those of one message to each receiver in each round.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
    graph = make_graph(pairing.graph, node.size, 3, pairing.flags)
    optimizer = optimizer_of(pairing, model, node, graph)
    before, expected, exchanges = node.bytes_sent, 0, 0
    draw = torch.Generator().manual_seed(node.rank)
    for step in range(NUM_STEPS):
        optimizer.epoch = step / 2
        inputs = torch.randn(8, 20, generator=draw)
        targets = torch.randint(3, (8,), generator=draw)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        if optimizer.num_exchanges > exchanges:
            expected += sent_bytes(pairing, optimizer, graph, exchanges)
            exchanges = optimizer.num_exchanges
    state = optimizer.state_dict()["vectors"]
    sent = node.bytes_sent - before
    centralized_sgd = (pairing.optimizer, pairing.graph) == ("sgd", "complete")
    assert centralized_sgd or sent == expected, pairing
    digest = hashlib.sha256()
    for vector in (optimizer.x, *state.values()):
        digest.update(vector.numpy().tobytes())
    # The sums of an all-reduce may come in any order.
    return str(sent) if centralized_sgd else f"{digest.hexdigest()} {sent}"


def digests(node: Communicator) -> dict[str, str]:
    """Of this node, by pairing."""
    return {json.dumps(pairing): train(node, pairing) for pairing in pairings()}


@contextmanager
def over(backend: str, folder: Path) -> Iterator[Checks]:
    """Write the digests of this rank."""
    place = detect()
    assert place is not None, "to be started by mpirun"
    node = connect(
        backend,
        place.rank,
        place.num_ranks,
        device=torch.device("cpu"),
        limit_seconds=LIMIT.total_seconds(),
        address=rendezvous_address(),
    )

    def write() -> None:
        file = folder / f"{backend}.{node.rank}.json"
        file.write_text(json.dumps(digests(node)), encoding="utf-8")

    yield {"digests": write}
    disconnect(node)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    # Over gloo first, in processes that have not initialized MPI.
    go_through(target, {backend: partial(over, backend, target) for backend in ("gloo", "mpi")})
