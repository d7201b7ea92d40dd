"""PowerGossip: neighbours subtract low-rank differences of their models."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch

from pcode.communication.base import Exchange
from pcode.compression.base import Compressor
from pcode.optim.low_rank import LowRank, Mix, batched, cpu
from pcode.optim.overlapping import OVERLAP, OverlappingOptimizer
from pcode.utils.errors import DivergenceError, NotFiniteError
from pcode.utils.layout import Layout
from pcode.utils.options import Option, needs

_WAITS = needs("mix_promptly", "--mix_promptly True waits for every exchange", False.__eq__)


class PowerGossip(OverlappingOptimizer):
    """X_i -= w_ij P Q^T, Q = X_i^T P - X_j^T P, for each neighbour j; then P = Q, orthonormalised.

    P of an edge has `gossip_rank` orthonormal columns. Both ends send X^T P, and subtract, and add,
    the same numbers: w_ij times the difference of their matrices, projected on P; then Q,
    orthonormalised, multiplies from the other side, which is a step of the power iteration for the
    largest singular vectors of the difference. There is no step size, no copy of a neighbour's
    model and no error feedback; state are the factors of each edge. What is no matrix, or no
    smaller by its factors, goes whole. Half of the matrices begin from the other side
    (`LowRank`). The factors start at random, the same on all nodes, and do so again where the
    difference is 0.

    x -= lr d is taken between: the models are sent after their local step, and the difference is
    subtracted in the next step, together with the next gradient, which is that at the x before and
    hides the exchange. With mix_promptly it is subtracted at once, within the step.

    Where nodes are on different kinds of processors, the two ends of an edge may round P and thus
    what they add differently, by float32's last digit; the factors do not drift apart, since each
    is made from differences that both ends have.

    Source: Vogels, Karimireddy and Jaggi, "Practical low-rank communication compression in
    decentralized deep learning", NeurIPS 2020, arXiv 2008.01425, Algorithm 1, with one
    multiplication a round. Differences: rank above 1 orthonormalises (by Gram and Schmidt); the
    exchange is hidden; matrices do not all begin from the same side.

    Args:
        gossip_rank: columns of P.
        power_iterations: rounds in a step, all but the last of which are waited for.
        mix_promptly: see above.
        manual_seed: the run's, of which the first factors are drawn.
    """

    reads_gradients_in_place = True

    def __init__(
        self,
        *args: Any,
        gossip_rank: Annotated[
            int, Option("power_gossip: rank of the difference that two nodes subtract", minimum=1)
        ] = 1,
        power_iterations: Annotated[
            int, Option("power_gossip: rounds of messages in a step", minimum=1)
        ] = 1,
        mix_promptly: Annotated[
            bool, Option("power_gossip: mix within the step, not with the next gradient")
        ] = False,
        overlap: Annotated[bool, replace(OVERLAP, irrelevant=_WAITS)] = True,
        manual_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(*args, overlap=overlap, **options)
        self.power_iterations, self.mix_promptly = power_iterations, mix_promptly
        self._low_rank, x = LowRank(self.layout, gossip_rank), self.x
        self._start_factors = self._low_rank.start(manual_seed).to(x.device)
        rank, weights = self.communicator.rank, self.topology.at(0).weights(self.communicator.rank)
        self._neighbours = self.topology.at(0).senders(rank)
        # Q is that of the lower rank's end.
        signs = [1.0 if rank < peer else -1.0 for peer in self._neighbours]
        self._signs = torch.tensor(signs, dtype=torch.float32, device=x.device)[:, None]
        of_edges = [-sign * weights[j] for sign, j in zip(signs, self._neighbours, strict=True)]
        self._weights = torch.tensor(of_edges, dtype=torch.float32, device=x.device)
        shape = len(self._neighbours), self._low_rank.width
        self._messages, self._received = (x.new_zeros(shape) for _ in range(2))
        self.basis, self.difference, self._spare = (x.new_zeros(shape) for _ in range(3))
        self._kernels = cpu if x.device.type == "cpu" else batched
        self._pending: Exchange | None = None

    @classmethod
    def message_bytes_of(cls, layout: Layout, compressor: Compressor, **flags: Any) -> int:
        iterations: int = flags["power_iterations"]
        return 4 * LowRank(layout, flags["gossip_rank"]).width * iterations

    @property
    def message_bytes(self) -> int:
        return 4 * self._low_rank.width * self.power_iterations

    def _recursion(self) -> None:
        first = self.num_exchanges * self.power_iterations
        for number in range(first, first + self.power_iterations):
            self.finish()
            is_first = number == first
            with self.timer("compress"):
                new_basis = self._spare.copy_(self.difference)
                self._kernels.orthonormalise(self._low_rank, number, new_basis, self._start_factors)
            mixes = not (is_first and self.mix_promptly)
            self._pass(number, new_basis, mixes=mixes, sends=True, steps=is_first)
            self._spare, self.basis = self.basis, new_basis
            self._send()
        if self.mix_promptly:
            self.finish()
            self._pass(first + self.power_iterations, self._spare, mixes=True)
        elif not self.overlap:
            self.finish()

    def _pass(
        self,
        number: int,
        new_basis: torch.Tensor,
        *,
        mixes: bool,
        sends: bool = False,
        steps: bool = False,
    ) -> None:
        """Subtract the last differences, take the local step and write a round's messages."""
        on_cpu, update = self.x.device.type == "cpu", None
        mix = Mix(
            self.basis, self.difference, self._weights, new_basis, self._messages, mixes, sends
        )
        with self.timer("local_update"):
            if steps and on_cpu:
                update = self.local.update_with(self.x, 1.0)
            if steps and update is None:
                self.store.collect_gradients()
                self.local.step()
            if on_cpu:
                cpu.pass_over(self._low_rank, number, self.x, mix, update)
            else:
                batched.pass_over(self._low_rank, number, self.x, mix)
        if on_cpu and sends:
            self._check_messages(number)

    def _check_messages(self, number: int) -> None:
        """Raise DivergenceError where a message is not finite."""
        finite = np.isfinite(self._messages.numpy())
        if not finite.all():
            place = np.argwhere(~finite)[0, 1]
            tensor = np.searchsorted(self._low_rank.sides(number).places, place, side="right") - 1
            name = self.layout.names[tensor]
            error = str(NotFiniteError(name))
            raise DivergenceError(error, rank=self.communicator.rank, step=self.num_steps)

    def _send(self) -> None:
        with self.timer("wait"):
            self._pending = self.communicator.exchange(
                dict(zip(self._neighbours, self._messages, strict=True)),
                dict(zip(self._neighbours, self._received, strict=True)),
                self.num_steps,
            )

    def _receive_pending(self) -> None:
        if self._pending is None:
            return
        exchange, self._pending = self._pending, None
        with self.timer("wait"):
            exchange.wait()
        with self.timer("mix"):
            torch.sub(self._messages, self._received, out=self.difference).mul_(self._signs)

    def cancel_pending(self) -> None:
        self._pending = None

    def _vectors(self) -> dict[str, torch.Tensor]:
        factors = {"basis": self.basis, "difference": self.difference}
        of_edges = {
            f"{name}_{peer}": rows[edge]
            for name, rows in factors.items()
            for edge, peer in enumerate(self._neighbours)
        }
        return {**super()._vectors(), **of_edges}

    def resynchronise(self) -> None:
        """Begin with the first factors again."""
        self.basis.zero_()
        self.difference.zero_()
