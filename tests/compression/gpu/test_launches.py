"""What the GPU's functions launch does not depend on the number of tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from pcode.layout import Layout

pytest.importorskip("triton", reason="there is no Triton for this machine")
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from tests.compression.gpu.cases import CASES, DEVICE, WEIGHTS, Case, drawn, room

FEW = Layout.of_sizes([20, 3])
MANY = Layout.of_sizes([5] * 8)


class Operations(TorchDispatchMode):
    """Counts torch's operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts launches of kernels, by name."""
    counts: Counter[str] = Counter()

    def counting(run: Callable[..., Any]) -> Callable[..., Any]:
        def counted(kernel: Any, *args: Any, **kwargs: Any) -> Any:
            counts[kernel.fn.__name__] += 1
            return run(kernel, *args, **kwargs)

        return counted

    for kind in (JITFunction, InterpretedFunction):
        monkeypatch.setattr(kind, "run", counting(kind.run))
    return counts


def counts_of(case: Case, layout: Layout, launches: Counter[str]) -> list[Counter[str]]:
    """Launches and operations of an encode and an accumulate, once there are tables."""
    compressor = case.compressor()
    value, *targets = (drawn(layout, seed).to(DEVICE) for seed in range(3))
    messages = [room(case, layout, DEVICE, key) for key in range(3)]
    case.kernels.encode(compressor, layout, value, targets[0], messages[0])
    launches.clear()
    with Operations() as operations:
        case.kernels.encode(compressor, layout, value, targets[0], messages[0])
        case.kernels.accumulate(compressor, layout, messages, targets, WEIGHTS)
    return [Counter(launches), operations.counts]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_launches_do_not_depend_on_the_number_of_tensors(
    case: Case, launches: Counter[str]
) -> None:
    few = counts_of(case, FEW, launches)
    assert sum(few[0].values()) > 0
    assert counts_of(case, MANY, launches) == few
