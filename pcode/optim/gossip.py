"""A round of messages between a node and its neighbours: compressed ones, or whole vectors."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from pcode.communication.base import Communicator, Exchange
from pcode.compression.base import Compressor, Message
from pcode.optim.fused import FusedStep
from pcode.topology.base import Mixing, Topology
from pcode.utils.errors import DivergenceError, NotFiniteError
from pcode.utils.layout import Layout
from pcode.utils.seeding import derive_seed
from pcode.utils.timing import StepTimer

# Of each (vector, weights, factor): vector += factor * sum_m weights[m] * messages[m], with the
# messages of a round in the order of ranks. A vector is float32, or float64.
Targets = Sequence[tuple[torch.Tensor, Sequence[float], float]]


class Gossip:
    """Buffers and order of a node's messages: one to and from each neighbour per round.

    Messages are added in the order of ranks, the node's own included, so that the sums do not
    depend on which arrives first. The constructor allocates one buffer for each neighbour and one
    for the node's own message (`fused_step` a second own one), and every round uses them again:
    `send` encodes into the own one and starts the exchange, which fills the others; after `receive`
    has waited for it, all may be read until the next `send` or `fused_step`. They are freed with
    this object; of a failed exchange MPI keeps them (mpi_backend/operation.py), as it may still
    write. Where a GPU's messages travel through host memory, staging.py receives into its own.

    Args:
        seed: the run's seed, from which both ends of an edge draw.
        timer: times compress, wait and mix.

    Attributes:
        own, mean, mixed: weights for the messages, in the order of ranks. Their sum is with `own`
            q_i, with `mean` sum_j w_ij q_j (the node itself included), with `mixed` mean - own.
    """

    def __init__(
        self,
        communicator: Communicator,
        topology: Topology,
        compressor: Compressor,
        layout: Layout,
        *,
        device: torch.device,
        seed: int,
        timer: StepTimer,
    ) -> None:
        self._communicator, self._compressor, self._layout = communicator, compressor, layout
        self._seed, self._timer, self._rank = seed, timer, communicator.rank
        self._neighbours = topology.neighbours(self._rank)
        self.message_bytes = compressor.message_bytes(layout)
        senders = sorted({self._rank, *self._neighbours})
        self._payloads = {
            sender: torch.empty(self.message_bytes, dtype=torch.uint8, device=device)
            for sender in senders
        }
        weights = topology.weights(self._rank)
        self.own = [float(sender == self._rank) for sender in senders]
        self.mean = [weights.get(sender, 0.0) for sender in senders]
        self.mixed = [w - delta for w, delta in zip(self.mean, self.own, strict=True)]
        self._spare: torch.Tensor | None = None  # see fused_step
        self._q: torch.Tensor | None = None  # see _add_wide
        self._pending: tuple[Exchange, int] | None = None

    def _message(self, sender: int, step: int) -> Message:
        return Message(self._payloads[sender], derive_seed(self._seed, "message", sender, step))

    def send(self, value: torch.Tensor, reference: torch.Tensor | None, step: int) -> None:
        """Encode q = Q(value - reference); start sending q to every neighbour and receiving theirs.

        Raises:
            DivergenceError: what is to be compressed is not finite; names rank, step and tensor.
        """
        with self._sending("compress", step) as own:
            self._compressor.encode(self._layout, value, reference, own)

    def fused_step(
        self, fused: FusedStep, targets: Targets, reference: torch.Tensor, step: int
    ) -> None:
        """`receive`, take a local step, and `send` x - reference; timed as local_update.

        It encodes the node's next message while it adds the last one, so that here two buffers take
        turns for the own message.

        Raises:
            DivergenceError: as `send`.
        """
        messages, last = self._wait_for_messages(), self._payloads[self._rank]
        spare = torch.empty_like(last) if self._spare is None else self._spare
        self._payloads[self._rank], self._spare = spare, last
        with self._sending("local_update", step) as own:
            fused(messages, *_sums(targets, messages), reference, own)

    @contextmanager
    def _sending(self, part: str, step: int) -> Iterator[Message]:
        """Time a block that encodes into the message that it gets; then start the exchange."""
        try:
            with self._timer(part):
                yield self._message(self._rank, step)
        except NotFiniteError as error:
            raise DivergenceError(str(error), rank=self._rank, step=step) from None
        with self._timer("wait"):
            exchange = self._communicator.exchange(
                dict.fromkeys(self._neighbours, self._payloads[self._rank]),
                {peer: self._payloads[peer] for peer in self._neighbours},
                step,
            )
        self._pending = exchange, step

    def add_own(self, target: torch.Tensor) -> None:
        """target += q_i, for the round under way; the others' messages need not be there."""
        assert self._pending is not None, "nothing was sent"
        with self._timer("mix"):
            own = self._message(self._rank, self._pending[1])
            self._compressor.accumulate(self._layout, [own], [target], [[1.0]])

    def receive(self, targets: Targets) -> None:
        """Wait for the round under way, if there is one, then decode and add its messages."""
        messages = self._wait_for_messages()
        if not messages:
            return
        narrow = [each for each in targets if each[0].dtype == torch.float32]
        with self._timer("mix"):
            self._compressor.accumulate(self._layout, messages, *_sums(narrow, messages))
            if wide := [each for each in targets if each[0].dtype == torch.float64]:
                self._add_wide(messages, wide)

    def _add_wide(self, messages: Sequence[Message], targets: Targets) -> None:
        """Add messages to vectors of float64, for which compressors have no kernels."""
        if self._q is None:
            self._q = torch.empty_like(targets[0][0], dtype=torch.float32)
        for number, message in enumerate(messages):
            q = self._decoded(message, self._q)
            for vector, weights, factor in targets:
                vector.add_(q, alpha=factor * weights[number])

    def _decoded(self, message: Message, target: torch.Tensor) -> torch.Tensor:
        """Return q of a message, in target."""
        self._compressor.accumulate(self._layout, [message], [target.zero_()], [[1.0]])
        return target

    def receive_one_by_one(self, target: torch.Tensor) -> Iterator[torch.Tensor]:
        """Wait for the round under way and give its messages one by one, by rank, in target."""
        for message in self._wait_for_messages():
            with self._timer("mix"):
                self._decoded(message, target)
            yield target

    def cancel_pending(self) -> None:
        """Drop the pending round, which has failed."""
        self._pending = None

    def _wait_for_messages(self) -> list[Message]:
        """Return the messages of the round under way, in the order of ranks, once all are there."""
        if self._pending is None:
            return []
        exchange, step = self._pending
        self._pending = None
        with self._timer("wait"):
            exchange.wait()
        return [self._message(sender, step) for sender in self._payloads]


def _sums(
    targets: Targets, messages: Sequence[Message]
) -> tuple[list[torch.Tensor], list[list[float]]]:
    """Return the vectors, and for each the weights of the messages: none before the first round."""
    weights = [[factor * w for w in row] if messages else [] for _, row, factor in targets]
    return [vector for vector, _, _ in targets], weights


class VectorGossip:
    """A round in which neighbours send each other whole vectors: x_i <- sum_j w_ij x_j.

    Args:
        timer: gets the parts wait and mix.

    Attributes:
        received: buffers to receive into, as many as any round so far had senders.
    """

    def __init__(self, communicator: Communicator, timer: StepTimer) -> None:
        self._communicator, self._timer = communicator, timer
        self.received: list[torch.Tensor] = []
        self._pending: tuple[Exchange, torch.Tensor, Mixing] | None = None
        self._sum: torch.Tensor | None = None  # see difference

    def __call__(self, x: torch.Tensor, mixing: Mixing, step: int) -> None:
        """Replace this node's flat x; all nodes call it, with the same weights."""
        self.send(x, mixing, step)
        self.receive()

    def send(self, x: torch.Tensor, mixing: Mixing, step: int) -> None:
        """Start the round: x, which `receive` replaces, is not to be touched before."""
        rank = self._communicator.rank
        senders = mixing.senders(rank)
        while len(self.received) < len(senders):
            self.received.append(torch.empty_like(x))
        incoming = dict(zip(senders, self.received, strict=False))
        with self._timer("wait"):
            outgoing = dict.fromkeys(mixing.receivers(rank), x)
            exchange = self._communicator.exchange(outgoing, incoming, step)
        self._pending = exchange, x, mixing

    def receive(self) -> None:
        """End the round under way, if there is one."""
        if self._pending is None:
            return
        x, weights, incoming = self._wait()
        with self._timer("mix"):
            x.mul_(weights.get(self._communicator.rank, 0.0))
            for peer, x_j in incoming.items():
                x.add_(x_j, alpha=weights[peer])

    def difference(self, x: torch.Tensor, mixing: Mixing, step: int) -> torch.Tensor:
        """Return sum_j w_ij (x_j - x_i), in a buffer, and leave x as it is.

        Where W is symmetric what two nodes add for their edge are opposite numbers, to the bit:
        sums of differences over the nodes do not drift as rounded models do.
        """
        self.send(x, mixing, step)
        x, weights, incoming = self._wait()
        with self._timer("mix"):
            if self._sum is None:
                self._sum = torch.empty_like(x)
            self._sum.zero_()
            for peer, x_j in incoming.items():
                self._sum.add_(x_j.sub_(x), alpha=weights[peer])
        return self._sum

    def _wait(self) -> tuple[torch.Tensor, dict[int, float], dict[int, torch.Tensor]]:
        """Return the own vector, the weights and the vectors that have come, by rank."""
        assert self._pending is not None, "nothing was sent"
        exchange, x, mixing = self._pending
        self._pending = None
        with self._timer("wait"):
            exchange.wait()
        rank = self._communicator.rank
        incoming = dict(zip(mixing.senders(rank), self.received, strict=False))
        return x, mixing.weights(rank), incoming

    def cancel_pending(self) -> None:
        """Drop the pending round, which has failed."""
        self._pending = None
