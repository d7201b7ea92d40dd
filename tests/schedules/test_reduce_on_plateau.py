"""reduce_on_plateau against torch's own rule, fed the same losses, and by hand."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from pcode.config import make_config
from pcode.topology import make_topology
from pcode.training.schedule import Schedule, make_schedule


def schedule(**flags: Any) -> Schedule:
    config = make_config(lr_schedule_scheme="reduce_on_plateau", **flags)
    return make_schedule(config, make_topology("ring", 8), 0, 100.0)


def losses(count: int) -> list[float]:
    """Fall, then stall with noise: improvements grow rare."""
    noise = torch.rand(count, generator=torch.Generator().manual_seed(1))
    return [float(2 / (1 + epoch) + 0.5 * noise[epoch]) for epoch in range(count)]


@pytest.mark.parametrize(("decay", "factor"), [(10.0, 0.1), (2.0, 0.5), (0.25, 0.25)])
def test_it_is_the_rule_of_torch(decay: float, factor: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(3)], lr=0.6)
    rule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor)
    course, want, found = schedule(lr=0.6, lr_decay=decay), [], []
    for epoch, loss in enumerate(losses(100)):
        rule.step(loss)
        want.append(optimizer.param_groups[0]["lr"])
        course.scheme.observe(loss)
        found.append(course(epoch + 1.0))
    assert found == want
    assert len(set(want)) >= 3


def test_the_rate_drops_at_the_eleventh_epoch_without_a_better_loss() -> None:
    course = schedule()
    course.scheme.observe(1.0)
    # Less than 1e-4 of the best is no improvement.
    for _ in range(10):
        course.scheme.observe(0.99995)
    assert course(11.0) == 0.1
    course.scheme.observe(0.99995)
    assert course(12.0) == pytest.approx(0.01)
    assert course.peak == 0.1


def test_each_improvement_starts_the_count_again() -> None:
    course = schedule()
    for loss in [1.0] + [1.0] * 10 + [0.9] + [0.9] * 10:
        course.scheme.observe(loss)
    assert course(22.0) == 0.1


def test_it_goes_on_from_its_state() -> None:
    series = losses(100)
    whole, first, second = (schedule(lr_decay=3.0) for _ in range(3))
    for loss in series:
        whole.scheme.observe(loss)
    for loss in series[:55]:
        first.scheme.observe(loss)
    file = io.BytesIO()
    torch.save(first.scheme.state_dict(), file)
    file.seek(0)
    second.scheme.load_state_dict(torch.load(file, weights_only=True))
    assert second(55.0) == first(55.0) < 0.1
    for loss in series[55:]:
        second.scheme.observe(loss)
    assert second(100.0) == whole(100.0) < first(55.0)


def test_the_scale_and_the_warm_up_apply_on_top() -> None:
    course = schedule(lr_scaleup=True, lr_warmup=True, lr_warmup_epochs=20.0)
    for _ in range(12):
        course.scheme.observe(1.0)
    # A ring's factor is 3: half-way through the warm-up it is 2.
    assert [course(10.0), course(20.0)] == pytest.approx([0.02, 0.03])
    assert course.peak == pytest.approx(0.3)
