"""PowerGossip: neighbours subtract low-rank differences of their models."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch

from pcode.communication.base import Exchange
from pcode.compression.base import Compressor
from pcode.optim.low_rank import LowRank, Mix
from pcode.optim.low_rank.batched import BatchedPasses
from pcode.optim.low_rank.cpu import CPUPasses
from pcode.optim.overlapping import OVERLAP, OverlappingOptimizer
from pcode.utils.errors import DivergenceError, NotFiniteError
from pcode.utils.layout import Layout
from pcode.utils.options import Option, needs

_WAITS = needs("mix_promptly", "--mix_promptly True waits for every exchange", operator.not_)


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

    Where an edge's ends are on different kinds of processors they may round P, and thus what they
    add, differently; Q is the same bits at both, so that this does not add up.

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
        passes = CPUPasses if x.device.type == "cpu" else BatchedPasses
        self._passes = passes(self._low_rank, x, self._low_rank.start(manual_seed).to(x.device))
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
        self._pending: Exchange | None = None
        # Rounds so far, and whether the last one's difference has been subtracted.
        self._round, self._is_mixed = 0, True

    @classmethod
    def notes(cls, **flags: Any) -> list[str]:
        if (rounds := flags["power_iterations"]) == 1:
            return []
        return [f"a step with an exchange has {rounds} rounds of messages"]

    @classmethod
    def message_bytes_of(cls, layout: Layout, compressor: Compressor, **flags: Any) -> int:
        return 4 * LowRank(layout, flags["gossip_rank"]).width

    def _recursion(self) -> None:
        for iteration in range(self.power_iterations):
            self.finish()
            self._begin_round(steps=iteration == 0)
        if self.mix_promptly:
            self.finish()
            self._pass(self._spare, sends=False, steps=False)
        elif not self.overlap:
            self.finish()

    def _begin_round(self, *, steps: bool) -> None:
        """Subtract the last round's difference, take the local step, and send products."""
        with self.timer("compress"):
            new_basis = self._spare.copy_(self.difference)
            self._passes.orthonormalise(self._round, new_basis)
        self._pass(new_basis, sends=True, steps=steps)
        self._spare, self.basis = self.basis, new_basis
        with self.timer("wait"):
            self._pending = self.communicator.exchange(
                dict(zip(self._neighbours, self._messages, strict=True)),
                dict(zip(self._neighbours, self._received, strict=True)),
                self.num_steps,
            )
        self._round += 1

    def _pass(self, new_basis: torch.Tensor, *, sends: bool, steps: bool) -> None:
        """Subtract the last differences unless that is done, take the local step and write the
        messages of the next round.
        """
        mix = Mix(
            self.basis,
            self.difference,
            self._weights,
            new_basis,
            self._messages,
            mixes=not self._is_mixed,
            sends=sends,
        )
        with self.timer("local_update"):
            self._passes.over(self._round, mix, self.local if steps else None)
        self._is_mixed = True
        if sends and self.x.device.type == "cpu":
            self._check_messages()

    def _check_messages(self) -> None:
        """Raise DivergenceError where a message is not finite."""
        finite = np.isfinite(self._messages.numpy())
        if not finite.all():
            places, place = self._low_rank.sides(self._round).places, np.argwhere(~finite)[0, 1]
            name = self.layout.names[np.searchsorted(places, place, side="right") - 1]
            error = str(NotFiniteError(name))
            raise DivergenceError(error, rank=self.communicator.rank, step=self.num_steps)

    def _receive_pending(self) -> None:
        if self._pending is None:
            return
        exchange, self._pending = self._pending, None
        with self.timer("wait"):
            exchange.wait()
        with self.timer("mix"):
            torch.sub(self._messages, self._received, out=self.difference).mul_(self._signs)
        self._is_mixed = False

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

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()  # ends the round under way
        return {**state, "round": self._round, "is_mixed": self._is_mixed}

    def warm_start(self, state_dict: dict[str, Any]) -> None:
        super().warm_start(state_dict)
        self._round = state_dict.get("round", 0)
        self._is_mixed = state_dict.get("is_mixed", True)

    def resynchronise(self) -> None:
        """Begin with the first factors again."""
        self.basis.zero_()
        self.difference.zero_()
        self._round, self._is_mixed = 0, True
