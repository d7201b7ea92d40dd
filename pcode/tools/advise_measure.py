"""What methods cost a node: measured by running their optimizers, here or on all ranks at once.

`python -m pcode.tools.advise_measure HOSTS FLAGS...` is a rank: advise.py starts them.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from pcode.check.edges import EdgeError, Measured, barrier, edges_of, measure_all, named
from pcode.communication import Communicator
from pcode.communication.base import NoCommunicator, TensorsByPeer, Wait
from pcode.communication.connect import abort, disconnect
from pcode.communication.gathering import gather_floats
from pcode.config import Config, parse
from pcode.datasets import Batches
from pcode.joining import join
from pcode.launch.environment import detect
from pcode.main import resolve
from pcode.tools.advise_methods import plan_alone, plans_of
from pcode.tools.advise_network import Cost
from pcode.training.node import Node
from pcode.training.plan import Plan
from pcode.utils.devices import check_gpus, use_memory_well
from pcode.utils.errors import CommunicationError, RunError, UserError

MARK = "pcode-advise:"  # begins the line with what the ranks have measured
ERROR = "advise: error: "
_WARM_UP, _STEPS = 2, 11  # of each method, exchanges; of the gradient, steps
# The ends of an edge that does not answer say so before those that wait for them.
_GRACE_SECONDS = 5.0


class EchoCommunicator(NoCommunicator):
    """A node's view of others that send at once what it sends itself.

    What an optimizer makes of that is no training, but takes it as long as any messages of that
    size. The copies stand for those that receiving makes.

    Attributes:
        num_begun, num_waited: exchanges so far that were begun, and waited for.
        reduces: whether there was an all-reduce.
    """

    num_begun = num_waited = 0
    reduces = False

    def _exchange(self, outgoing: TensorsByPeer, incoming: TensorsByPeer, step: int | None) -> Wait:
        # One message will do where a neighbour that sends is none that gets something.
        any_message = next(iter(outgoing.values()), torch.zeros(()))
        for peer, tensor in incoming.items():
            tensor.copy_(outgoing.get(peer, any_message))
        self.num_begun += 1

        def wait() -> None:
            self.num_waited += 1

        return wait

    def _all_reduce(self, tensor: torch.Tensor, step: int | None) -> None:
        tensor.mul_(self.size)
        self.reduces = True


@dataclass(frozen=True)
class Speed:
    """How long a node takes for what all methods do: forward and backward, and a local step."""

    gradient_seconds: float
    local_seconds: float

    @property
    def step_seconds(self) -> float:
        """Of a step without communication."""
        return self.gradient_seconds + self.local_seconds


def _timed(work: Callable[[], object], device: torch.device) -> float:
    begin = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def _batches(node: Node) -> Batches:
    """Yield batches of the run, epoch after epoch."""
    while True:
        yield from node.batches_ahead()


class Bench:
    """One node, without others, on which steps are timed.

    Args:
        alone: see `plan_alone`.
        rank: this node's.
        gradient_seconds: None: it is measured.

    Attributes:
        speed: of this node.
    """

    def __init__(self, alone: Plan, rank: int = 0, gradient_seconds: float | None = None) -> None:
        self._alone, self._rank = alone, rank
        launch = alone.config.launch
        if launch.on_cuda:
            check_gpus(launch.world, [rank])
        node = self._node(alone)
        batches, device = _batches(node), node.device
        optimizer, times = node.optimizer, []
        for _ in range(1 if gradient_seconds is not None else _WARM_UP + _STEPS):
            times.append(_timed(lambda: node.train_step(batches), device))
        found = (parameter.grad for parameter in optimizer.store.parameters)
        self._gradients = [None if grad is None else grad.detach().clone() for grad in found]
        local = statistics.median(self._step(node) for _ in range(_WARM_UP + _STEPS))
        if gradient_seconds is None:
            gradient_seconds = max(0.0, statistics.median(times[_WARM_UP:]) - local)
        self.speed = Speed(gradient_seconds, local)

    def _node(self, plan: Plan) -> Node:
        return Node(plan, EchoCommunicator(self._rank, plan.topology.num_nodes))

    def _step(self, node: Node) -> float:
        """Make a step from the same gradients, as backward leaves them; return its seconds."""
        parameters = node.optimizer.store.parameters
        for parameter, gradient in zip(parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return _timed(node.optimizer.step, node.device)

    def cost(self, plan: Plan) -> Cost:
        """Measure a method: time a few of its exchanges, and look at which it waits for."""
        node = self._node(plan)
        optimizer, echo = node.optimizer, node.communicator
        assert isinstance(echo, EchoCommunicator), "as made above"
        times: list[float] = []
        while len(times) < _WARM_UP + _STEPS:
            exchanges, begun = optimizer.num_exchanges, echo.num_begun
            seconds = self._step(node)
            if optimizer.num_exchanges > exchanges:
                times.append(seconds)
        return Cost(
            message_bytes=plan.message_bytes,
            pass_seconds=statistics.median(times[_WARM_UP:]),
            local_seconds=self.speed.local_seconds,
            local_steps=plan.config.learning.local_step,
            rounds=1 if echo.reduces else echo.num_begun - begun,
            hidden_rounds=echo.num_begun - echo.num_waited,
            reduces=echo.reduces,
        )


@dataclass(frozen=True)
class Found:
    """What was measured: costs by the titles of methods; on ranks, whose hosts these are, edges."""

    speed: Speed
    costs: dict[str, Cost]
    hosts: Sequence[str] = ()
    edges: list[Measured] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, line: str) -> Found:
        """Read what rank 0 has printed, without MARK."""
        content = json.loads(line)
        costs = {title: Cost(**cost) for title, cost in content["costs"].items()}
        edges = [Measured(**{**each, "edge": tuple(each["edge"])}) for each in content["edges"]]
        return cls(Speed(**content["speed"]), costs, content["hosts"], edges)


def measure_here(alone: Plan, plans: Mapping[str, Plan], gradient_ms: float | None) -> Found:
    """Measure in this process, as one of the nodes; the gradient only if it is not given."""
    torch.set_num_threads(alone.config.launch.num_threads or 1)
    bench = Bench(alone, gradient_seconds=None if gradient_ms is None else gradient_ms / 1e3)
    return Found(bench.speed, {title: bench.cost(plan) for title, plan in plans.items()})


def _measure_on_all(communicator: Communicator, config: Config, hosts: Sequence[str]) -> Found:
    """Measure on all ranks at once: the edges, and computing, where the slowest counts."""
    alone = plan_alone(config)
    edges = measure_all(communicator, edges_of(alone.topology), hosts)
    bench = Bench(alone, communicator.rank)
    plans, _ = plans_of(alone, config)
    costs = {}
    for title, plan in plans.items():
        barrier(communicator)  # ranks that share a host run the same method
        costs[title] = bench.cost(plan)
    barrier(communicator)
    own = [*vars(bench.speed).values(), *(cost.pass_seconds for cost in costs.values())]
    slowest = map(max, zip(*gather_floats(communicator, own), strict=True))
    speed = Speed(next(slowest), next(slowest))
    costs = {
        title: dataclasses.replace(cost, local_seconds=speed.local_seconds, pass_seconds=seconds)
        for (title, cost), seconds in zip(costs.items(), slowest, strict=True)
    }
    return Found(speed, costs, hosts, edges)


def _be_rank(hosts: Sequence[str], arguments: Sequence[str]) -> None:
    """Measure as one of the ranks, whose hosts these are; rank 0 prints what they have found."""
    use_memory_well()
    place = detect()
    assert place is not None, "mpirun has started it"
    try:
        parsed = parse(arguments)
        config = resolve(parsed.config, parsed.given, place)
        launch = config.launch
        torch.set_num_threads(launch.num_threads or 1)
        communicator = join(launch, place)
        found = _measure_on_all(communicator, config, hosts)
        if place.rank == 0:
            print(f"{MARK}{json.dumps(dataclasses.asdict(found))}", flush=True)
        disconnect(communicator)
    except (EdgeError, CommunicationError) as error:
        cause = error.cause if isinstance(error, EdgeError) else error
        text = f"{ERROR}{error}"
        if isinstance(error, EdgeError):
            text = f"{ERROR}{named(error.edge, hosts)}: {cause.reason}"
        elif not cause.reported_by_peer:
            time.sleep(_GRACE_SECONDS)
        abort("" if cause.reported_by_peer else text)
    except BaseException as error:  # the other ranks must not wait for this one
        if not isinstance(error, RunError | UserError):
            traceback.print_exc()
        abort(f"{ERROR}rank {place.rank} ({hosts[place.rank]}): {error}")


if __name__ == "__main__":
    _be_rank(sys.argv[1].split(","), sys.argv[2:])
