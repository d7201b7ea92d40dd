"""Sums and other reductions of the ranks' tensors, in the order of ranks.

Every result is the same on every rank and in every run, because the order of the operations does
not depend on which message came first. bfloat16, float16 and the float8 types are summed and
multiplied in float32, complex32 in complex64, and rounded once, at the end. The average of integers
is rounded towards zero, as NCCL's. bool: sum and max are "or", product and min are "and", as for
the sets they stand for.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch.distributed import ReduceOp

# Of two tensors, into `out`.
Combine = Callable[..., torch.Tensor]


def _by_numpy(function: np.ufunc) -> Combine:
    return lambda left, right, *, out: torch.from_numpy(
        function(left.numpy(), right.numpy(), out=out.numpy())
    )


_ARITHMETIC: dict[str, Combine] = {"SUM": torch.add, "AVG": torch.add, "PRODUCT": torch.mul}
_ORDER: dict[str, Combine] = {"MIN": torch.minimum, "MAX": torch.maximum}
_UNSIGNED_ORDER = {"MIN": _by_numpy(np.minimum), "MAX": _by_numpy(np.maximum)}
_BITS = {"BAND": torch.bitwise_and, "BOR": torch.bitwise_or, "BXOR": torch.bitwise_xor}
# torch neither adds nor (before 2.14) orders these; their sums have the bits of the signed sums.
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_WIDE = (torch.float32, torch.float64, torch.complex64, torch.complex128)


class Reduction:
    """One kind of reduction for so many tensors of one dtype; a ValueError if that has none."""

    def __init__(self, op: ReduceOp | ReduceOp.RedOpType, dtype: torch.dtype, num_ranks: int):
        names = (*_ARITHMETIC, *_ORDER, *_BITS)
        name = next((known for known in names if op == getattr(ReduceOp, known)), str(op))
        floating = dtype.is_floating_point or dtype.is_complex
        table: dict[str, Combine] = dict(_ARITHMETIC)
        if not dtype.is_complex:
            table |= _UNSIGNED_ORDER if dtype in _SIGNED else _ORDER
        if not floating:
            table |= _BITS
        if dtype == torch.bool:
            del table["AVG"]
        if name not in table:
            raise ValueError(f"reduction {name} is not defined for {dtype} over mpi")
        self._combine = table[name]
        self._divisor = num_ranks if name == "AVG" else 1
        self._dtype, self._rounding = dtype, None if floating else "trunc"
        self._view = dtype if name in _ORDER else _SIGNED.get(dtype, dtype)
        wide = torch.complex64 if dtype.is_complex else torch.float32
        self._working = wide if floating and dtype not in _WIDE else self._view

    def reduce(self, rows: list[torch.Tensor], own: int, out: torch.Tensor) -> None:
        """out = rows[0] op rows[1] op ..., evaluated in this order; all 1-D and of one size.

        There are two rows or more, one of each rank. That of number `own` may be the memory of
        `out`, and is not overwritten otherwise; the other ones are.
        """
        with torch.inference_mode():
            target = out.view(self._view)
            values = [row.view(self._view) for row in rows]
            if self._working is not self._view:
                total = values[0].to(self._working)
                for value in values[1:]:
                    self._combine(total, value.to(self._working), out=total)
                self._divide(total)
                target.copy_(total)
                return
            total = values[0]
            for index, value in enumerate(values[1:], start=1):
                # `out` may be the own row: written only once that has been read.
                last = index == len(values) - 1
                into = target if last or index >= own else total
                total = self._combine(total, value, out=into)
            self._divide(target)

    def _divide(self, total: torch.Tensor) -> None:
        if self._divisor == 1:
            return
        if self._dtype in _SIGNED:
            values = total.view(self._dtype).numpy()
            np.floor_divide(values, self._divisor, out=values)
        else:
            torch.div(total, self._divisor, rounding_mode=self._rounding, out=total)
