"""What every compressor is: vector -> message -> added into vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pcode.utils.layout import Layout
from pcode.utils.options import options_of


@dataclass(frozen=True)
class Message:
    """One node's message of one step.

    Attributes:
        payload: the bytes on the wire: flat uint8, `Compressor.message_bytes(layout)` long.
        key: what both ends draw random numbers from (never on the wire): it depends on the run's
            seed, the sender's rank and the step, so that the receiver can derive it.
    """

    payload: torch.Tensor
    key: int = 0


class Compressor(ABC):
    """A compression operator Q that works on each tensor of a flat float32 vector separately.

    A compressor holds its parameters and no state of a run; one object may serve many nodes and
    threads. All vectors are flat, contiguous float32 tensors of layout.num_entries.
    """

    @property
    def default_consensus_stepsize(self) -> float:
        """gamma of the optimizers that have one, where the user gives none; found by tuning."""
        return 1.0

    @property
    def description(self) -> str:
        """What is sent, in words for a run's first lines."""
        return (self.__doc__ or type(self).__name__).strip().partition("\n")[0].rstrip(".")

    @property
    def options(self) -> dict[str, Any]:
        """The values of the options that it declares: attributes by the names of the flags."""
        return {name: getattr(self, name) for name in options_of(type(self))}

    def with_options(self, **changes: object) -> Compressor:
        """Make the same compressor with other options."""
        return type(self)(**self.options | changes)

    @abstractmethod
    def message_bytes(self, layout: Layout) -> int:
        """Bytes of one message: exactly what is sent, the same for every step."""

    @abstractmethod
    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        """Write Q(value - reference) into message.payload; no reference stands for zero.

        Neither input is changed, and no copy of their difference need be made.

        Raises:
            NotFiniteError: a difference that Q reads is NaN or infinite; the error names the
                first such tensor, and the payload is then of no use.
        """

    @abstractmethod
    def accumulate(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
    ) -> None:
        """targets[k] += sum_m weights[k][m] * decoded messages[m], in the order of the messages.

        A weight of 0 leaves the message out. With weight 1 every node adds the same bits.
        """

    @abstractmethod
    def contraction(self, layout: Layout) -> float:
        """delta of E||Q(v) - v||^2 <= (1 - delta) ||v||^2: the smallest over the tensors.

        Where it depends on v, that of normally distributed entries. Zero or less means that none
        is known: the bound, 1 - delta >= 1, then holds, but Q is no contraction.
        """
