"""What every compressor is: vector -> message -> added into vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pcode.utils.errors import UserError
from pcode.utils.layout import Layout
from pcode.utils.options import Option, options_of

CompressRatio = Annotated[float, Option("share that is dropped", metavar="SHARE")]
IS_BIASED = Option("biased form of the compressor")
IsBiased = Annotated[bool, IS_BIASED]


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

    Attributes:
        is_sparse: whether it sends some entries, a share that `with_options(compress_ratio=...)`
            changes, and drops the others.
    """

    is_sparse: bool = False

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
        """Return the bytes of a message: exactly what is sent, the same for every step."""

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


class Difference(NamedTuple):
    """The vector to compress, value - reference; no reference stands for zero."""

    value: torch.Tensor
    reference: torch.Tensor | None


class WeightedSum(NamedTuple):
    """What is to be added: targets[k] += sum_m weights[k, m] * decoded messages[m].

    Attributes:
        messages: there may be none, and each has a weight that is not 0.
        weights: float32, targets x messages.
    """

    messages: Sequence[Message]
    targets: Sequence[torch.Tensor]
    weights: NDArray[np.float32]


class Kernels(Protocol):
    """A module with a compressor's functions for one kind of device.

    They do what the methods of that name do, with arguments that have been checked; those that
    follow are the compressor's `parameters`.
    """

    def encode(
        self, layout: Layout, difference: Difference, message: Message, *args: Any, **kwargs: Any
    ) -> None: ...

    def accumulate(self, layout: Layout, added: WeightedSum, *args: Any, **kwargs: Any) -> None: ...


class KernelCompressor(Compressor):
    """A compressor with kernels of its own for vectors on CPUs and on GPUs.

    All methods raise UserError for a device without kernels, and ValueError for a tensor that has
    not the type or the size that it should have.

    Attributes:
        cpu_kernels: the module for CPUs.
    """

    cpu_kernels: Kernels

    @abstractmethod
    def triton_kernels(self) -> Kernels:
        """Import the module for GPUs, at the first call: it needs Triton."""

    def parameters(self, layout: Layout) -> tuple[Any, ...]:
        """Return what the kernels take besides vectors and messages."""
        return ()

    def encode(
        self, layout: Layout, value: torch.Tensor, reference: torch.Tensor | None, message: Message
    ) -> None:
        kernels = self._kernels(value.device)
        self.check_payloads(layout, [message], value.device)
        for vector in (value,) if reference is None else (value, reference):
            check_tensor(vector, torch.float32, layout.num_entries, value.device)
        # Triton launches on the current device.
        with torch.cuda.device_of(value):
            difference, parameters = Difference(value, reference), self.parameters(layout)
            kernels.encode(layout, difference, message, *parameters)

    def accumulate(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
    ) -> None:
        kernels = self._kernels(targets[0].device)
        added = self.checked_sum(layout, messages, targets, weights)
        with torch.cuda.device_of(targets[0]):
            kernels.accumulate(layout, added, *self.parameters(layout))

    def _kernels(self, device: torch.device) -> Kernels:
        if device.type not in ("cpu", "cuda"):
            raise UserError(f"compression has no kernels for device {device}; use cpu or cuda")
        return self.cpu_kernels if device.type == "cpu" else self.triton_kernels()

    def check_payloads(
        self, layout: Layout, messages: Sequence[Message], device: torch.device
    ) -> None:
        """Raise ValueError unless all payloads are on the device and as long as they should be."""
        num_bytes = self.message_bytes(layout)
        for message in messages:
            check_tensor(message.payload, torch.uint8, num_bytes, device)

    def checked_sum(
        self,
        layout: Layout,
        messages: Sequence[Message],
        targets: Sequence[torch.Tensor],
        weights: Sequence[Sequence[float]],
    ) -> WeightedSum:
        """Check the arguments of `accumulate`; leave out messages whose weights are all 0.

        Raises:
            ValueError: a tensor is not as it has to be, or there is not one weight for each target
                and message.
        """
        self.check_payloads(layout, messages, targets[0].device)
        for target in targets:
            check_tensor(target, torch.float32, layout.num_entries, targets[0].device)
        matrix = np.array(weights, dtype=np.float32)
        if matrix.shape != (len(targets), len(messages)):
            raise ValueError(
                f"expected {len(targets)} x {len(messages)} weights (targets x messages), "
                f"got shape {matrix.shape}"
            )
        used = np.flatnonzero(matrix.any(axis=0)).tolist()
        # Contiguous: kernels are compiled anew for an array of another layout.
        matrix = np.ascontiguousarray(matrix[:, used])
        return WeightedSum([messages[m] for m in used], targets, matrix)


def check_tensor(tensor: torch.Tensor, dtype: torch.dtype, size: int, device: torch.device) -> None:
    """Raise ValueError unless it is a contiguous one of so many entries on that device."""
    if (
        tensor.device != device
        or tensor.dtype != dtype
        or tensor.shape != (size,)
        or not tensor.is_contiguous()
    ):
        raise ValueError(
            f"expected a contiguous {dtype} tensor of shape ({size},) on {device}, got "
            f"{tensor.dtype} of shape {tuple(tensor.shape)} and strides {tensor.stride()} on "
            f"{tensor.device}"
        )
