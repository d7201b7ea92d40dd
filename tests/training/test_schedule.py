"""The learning rate against the rules of the paper's experiments, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from pcode.config import make_config
from pcode.errors import UserError
from pcode.topology import Topology, make_topology
from pcode.training.schedule import make_schedule


def rate(epoch: float, topology: Topology | None = None, rank: int = 0, **flags: Any) -> float:
    return make_schedule(make_config(**flags), topology or make_topology("ring", 8), rank)(epoch)


SCALED: dict[str, Any] = {"lr_scaleup": True, "batch_size": 128, "base_batch_size": 64}


def test_constant_by_default() -> None:
    assert [rate(e) for e in (0, 3.7, 1000)] == [0.1] * 3


@pytest.mark.parametrize(
    ("flags", "want"),
    [
        ({}, 0.1 * 2 * 3),  # a ring's node has two neighbours and itself
        ({"lr_scaleup_factor": "world"}, 0.1 * 2 * 8),
        ({"lr_scaleup_factor": "2.5"}, 0.1 * 2 * 2.5),
        ({"lr_scaleup_type": "sqrt"}, 0.1 * 6**0.5),
    ],
)
def test_scale_up(flags: dict[str, Any], want: float) -> None:
    assert rate(0, **SCALED, **flags) == pytest.approx(want)


def test_scale_up_differs_between_the_nodes_of_an_irregular_graph(tmp_path: Any) -> None:
    path = tmp_path / "star.txt"
    path.write_text("0 1\n0 2\n0 3\n")
    star = make_topology(str(path), 4)
    assert rate(0, star, 0, lr_scaleup=True) == pytest.approx(0.4)
    assert rate(0, star, 3, lr_scaleup=True) == pytest.approx(0.2)


def test_warm_up_is_linear_from_lr_to_the_scaled_rate() -> None:
    rates = [rate(e, **SCALED, lr_warmup=True) for e in (0, 1, 2.5, 5, 9)]
    assert rates == pytest.approx([0.1, 0.2, 0.35, 0.6, 0.6])


@pytest.mark.parametrize("decay", [10.0, 0.1])
def test_multistep_divides_at_each_milestone(decay: float) -> None:
    flags: dict[str, Any] = {
        "lr_schedule_scheme": "custom_multistep",
        "lr_change_epochs": (150.0, 225.0),
        "lr_decay": decay,
    }
    epochs = (0, 149.99, 150, 224, 225, 299)
    want = [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    assert [rate(e, **flags) for e in epochs] == pytest.approx(want)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"lr_schedule_scheme": "custom_multistep"}, "--lr_change_epochs"),
        (
            {"lr_schedule_scheme": "custom_multistep", "lr_change_epochs": (5.0, 2.0)},
            "ascending",
        ),
        ({"lr_scaleup": True, "lr_scaleup_factor": "many"}, "--lr_scaleup_factor many"),
        ({"lr_scaleup": True, "lr_scaleup_factor": "0"}, "--lr_scaleup_factor 0"),
        ({"lr_scaleup": True, "lr_scaleup_factor": "nan"}, "--lr_scaleup_factor nan"),
        ({"lr_decay": 0.0}, "--lr_decay 0"),
    ],
)
def test_bad_schedules_are_refused(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        rate(0, **flags)
