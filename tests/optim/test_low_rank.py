"""Low-rank factors and the passes over a model with them: kernels beside torch's operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pcode.optim.low_rank import LEFT, RIGHT, WHOLE, LowRank, Mix
from pcode.optim.low_rank.batched import BatchedPasses
from pcode.optim.low_rank.cpu import CPUPasses
from pcode.utils.layout import Layout

SIZES = [(7, 5), (300, 40), (3, 900), (40,), (300, 40), (16, 3, 3, 3), (1, 9), (2000, 301), ()]
LAYOUT = Layout.of((str(index), torch.empty(shape)) for index, shape in enumerate(SIZES))


def mix_of(low_rank: LowRank, number: int, num_edges: int = 3) -> Mix:
    draw_ = torch.Generator().manual_seed(number)
    shape = num_edges, low_rank.width
    basis, difference, new = (torch.randn(shape, generator=draw_) for _ in range(3))
    weights = torch.tensor([0.3, -0.2, 0.1])
    return Mix(basis, difference, weights, new, torch.zeros(shape), mixes=True, sends=True)


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("number", [0, 1])
def test_kernels_do_as_torchs_operations(number: int, rank: int) -> None:
    low_rank = LowRank(LAYOUT, rank)
    start = low_rank.start(1)
    x = torch.randn(LAYOUT.num_entries, generator=torch.Generator().manual_seed(2))
    y, mix, same = x.clone(), mix_of(low_rank, number), mix_of(low_rank, number)
    kernels, operations = CPUPasses(low_rank, x, start), BatchedPasses(low_rank, y, start)
    kernels.orthonormalise(number, mix.new_basis)
    operations.orthonormalise(number, same.new_basis)
    torch.testing.assert_close(mix.new_basis, same.new_basis, atol=1e-7, rtol=1e-6)
    kernels.over(number, mix, None)
    operations.over(number, same, None)
    torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(mix.messages, same.messages, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("passes", [CPUPasses, BatchedPasses])
def test_a_factor_has_the_same_bits_whatever_other_edges_there_are(passes: Any) -> None:
    """An edge's ends may have any number of others."""
    low_rank = LowRank(LAYOUT, 4)
    x, start = torch.zeros(LAYOUT.num_entries), low_rank.start(1)
    among = mix_of(low_rank, 0).difference
    among[:, 40] = among[:, 41]
    alone = among[1:2].clone()
    for factors in (among, alone):
        passes(low_rank, x, start).orthonormalise(0, factors)
    assert torch.equal(among[1], alone[0])


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    low_rank = LowRank(Layout.of([("a", torch.empty(3000, 1000)), ("b", torch.empty(700_000))]), 2)

    def passed(num_threads: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(low_rank.layout.num_entries, generator=torch.Generator().manual_seed(2))
        mix, before = mix_of(low_rank, number), torch.get_num_threads()
        torch.set_num_threads(num_threads)
        try:
            CPUPasses(low_rank, x, low_rank.start(1)).over(number, mix, None)
        finally:
            torch.set_num_threads(before)
        return x, mix.messages

    for number in (0, 1):
        assert all(map(torch.equal, passed(1, number), passed(3, number)))


@pytest.mark.parametrize("passes", [CPUPasses, BatchedPasses])
def test_factors_are_orthonormal_whatever_they_come_from(passes: Any) -> None:
    """Independent vectors, none, equal and all but equal ones; they span what they did."""
    rank, size = 3, 50
    low_rank = LowRank(Layout.of([("0", torch.empty(size, size))]), rank)
    draw_ = torch.Generator().manual_seed(3)
    a, b = torch.randn(2, size, generator=draw_)
    for vectors, kept in (
        ([a, b, a + b + 1], 3),
        ([a, a, b], 3),
        ([0 * a, 0 * a, 0 * a], 0),
        ([a, a + 1e-6 * b, b], 1),
        ([1e-15 * a, 1e15 * b, 1e-15 * a], 2),
    ):
        factors = torch.cat(vectors)[None].clone()
        x = torch.zeros(size * size)
        passes(low_rank, x, low_rank.start(1)).orthonormalise(0, factors)
        found = factors.view(rank, size).double()
        torch.testing.assert_close(found @ found.T, torch.eye(rank).double(), atol=1e-5, rtol=0)
        for vector in vectors[:kept]:
            unit = vector.double() / vector.double().norm()
            torch.testing.assert_close(found.T @ (found @ unit), unit, atol=1e-5, rtol=0)


def test_a_message_holds_what_is_said() -> None:
    """Two numbers for each row or column of a matrix in turn, and all of what is no smaller."""
    shapes = [(30, 10), (30, 10), (3, 5), (7,), ()]
    low_rank = LowRank(Layout.of((str(i), torch.empty(s)) for i, s in enumerate(shapes)), 2)
    for number in (0, 1):
        *matrices, small, vector, scalar = low_rank.sides(number).kinds
        assert {*matrices} == {LEFT, RIGHT}  # one begins from the other side
        assert (small, vector, scalar) == (WHOLE, WHOLE, WHOLE)
    assert low_rank.width == 2 * (30 + 10) + 15 + 7 + 1 + 1  # a multiple of four
