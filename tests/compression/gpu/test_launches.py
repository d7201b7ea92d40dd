"""What the GPU's functions launch does not depend on the number of tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch.utils._python_dispatch import _disable_current_modes

from pcode.compression.base import Difference, WeightedSum
from pcode.utils.layout import Layout

pytest.importorskip("triton", reason="there is no Triton for this machine")
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from pcode.optim.sgd_update import SGDUpdate
from tests.compression.gpu.cases import CASES, DEVICE, WEIGHTS, Case, drawn, room
from tests.support.operations import Operations

# Tensors that are read by 16 bytes, and others.
FEW = Layout.of_sizes([20, 3])
MANY = Layout.of_sizes([20, 8, 16, 4, *([5] * 8)])
# In a step with two neighbours; torch's operations that a GPU has no part in.
MOST_OPERATIONS = 20
HOST_ONLY = {"empty", "view", "slice", "select", "unbind", "detach"}
# They differ from another case in nothing but a number that the kernels are given.
ALIKE = {"compress_top_k-0.5", *(f"quantize_qsgd-{level}" for level in (1, 2, 8, 16))}
each_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.label, marks=[pytest.mark.slow] if case.label in ALIKE else [])
        for case in CASES
    ],
)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts launches of kernels, by name."""
    counts: Counter[str] = Counter()

    def counting(run: Callable[..., Any]) -> Callable[..., Any]:
        def counted(kernel: Any, *args: Any, **kwargs: Any) -> Any:
            counts[kernel.fn.__name__] += 1
            with _disable_current_modes():  # The interpreter's operations are no GPU's.
                return run(kernel, *args, **kwargs)

        return counted

    for kind in (JITFunction, InterpretedFunction):
        monkeypatch.setattr(kind, "run", counting(kind.run))
    return counts


def counts_of(case: Case, layout: Layout, launches: Counter[str]) -> list[Counter[str]]:
    """Launches and operations of an encode and an accumulate, once there are tables."""
    value, *targets = (drawn(layout, seed).to(DEVICE) for seed in range(3))
    messages = [room(case, layout, DEVICE, key) for key in range(3)]
    case.encode(layout, Difference(value, targets[0]), messages[0])
    launches.clear()
    with Operations() as operations:
        case.encode(layout, Difference(value, targets[0]), messages[0])
        case.accumulate(layout, WeightedSum(messages, targets, WEIGHTS))
    return [Counter(launches), operations.counts]


@each_case
def test_launches_do_not_depend_on_the_number_of_tensors(
    case: Case, launches: Counter[str]
) -> None:
    few = counts_of(case, FEW, launches)
    assert sum(few[0].values()) > 0
    assert counts_of(case, MANY, launches) == few


def num_device_operations(operations: Operations, launches: Counter[str]) -> int:
    """Kernels, and torch's operations but for those that make a view or reserve memory."""
    others = sum(count for name, count in operations.counts.items() if name not in HOST_ONLY)
    return sum(launches.values()) + others


@each_case
def test_a_step_puts_few_operations_on_the_device(case: Case, launches: Counter[str]) -> None:
    x, buf, z, hat = (drawn(MANY, seed).to(DEVICE) for seed in range(4))
    gradients = MANY.views(drawn(MANY, 4).to(DEVICE))
    rows = np.ones((MANY.num_tensors, 5), dtype=np.float32)
    sgd = SGDUpdate(MANY, x, buf, z, gradients, rows)
    messages = [room(case, MANY, DEVICE, key) for key in range(3)]

    def step_of_choco() -> None:
        case.accumulate(MANY, WeightedSum(messages, [hat, z], WEIGHTS))
        sgd.on_gpu()
        case.encode(MANY, Difference(x, hat), messages[0])

    case.encode(MANY, Difference(hat, None), messages[0])
    for message in messages[1:]:
        message.payload.copy_(messages[0].payload)
    step_of_choco()  # Tables are made once.
    launches.clear()
    with Operations() as operations:
        step_of_choco()
    found = num_device_operations(operations, launches)
    assert found < MOST_OPERATIONS, f"{launches} {operations.counts}"
