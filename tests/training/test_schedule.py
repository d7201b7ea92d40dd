"""Scale-up and warm-up against the rules of the paper's experiments, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pcode.config import make_config, parse
from pcode.topology import Topology, make_topology
from pcode.training.planning import make_plan
from pcode.training.reports import describe
from pcode.training.schedule import Schedule, make_schedule
from pcode.utils.errors import UserError

END = 12.0


def schedule(topology: Topology | None = None, rank: int = 0, **flags: Any) -> Schedule:
    return make_schedule(make_config(**flags), topology or make_topology("ring", 8), rank, END)


def rates(epochs: tuple[float, ...], **flags: Any) -> list[float]:
    course = schedule(**flags)
    return [course(epoch) for epoch in epochs]


SCALED: dict[str, Any] = {"lr_scaleup": True, "batch_size": 128, "base_batch_size": 64}


def test_constant_by_default() -> None:
    assert rates((0, 3.7, END)) == [0.1] * 3
    assert schedule().turning_points == (0,)


@pytest.mark.parametrize(
    ("flags", "want"),
    [
        ({}, 0.1 * 2 * 3),  # a ring's node has two neighbours and itself
        ({"lr_scaleup_factor": "world"}, 0.1 * 2 * 8),
        ({"lr_scaleup_factor": "2.5"}, 0.1 * 2 * 2.5),
        ({"lr_scaleup_type": "sqrt"}, 0.1 * 6**0.5),
        ({"lr_scaleup_type": "sqrt", "lr_scaleup_factor": "world"}, 0.1 * 4),
        ({"base_batch_size": None, "lr_scaleup_factor": "world"}, 0.1 * 8),
    ],
)
def test_scale_up(flags: dict[str, Any], want: float) -> None:
    course = schedule(**(SCALED | flags))
    assert course(0) == pytest.approx(want)
    assert course.peak == pytest.approx(want)


def test_scale_up_differs_between_the_nodes_of_an_irregular_graph(tmp_path: Path) -> None:
    path = tmp_path / "star.txt"
    path.write_text("0 1\n0 2\n0 3\n")
    star = make_topology(str(path), 4)
    assert schedule(star, 0, lr_scaleup=True)(0) == pytest.approx(0.4)
    assert schedule(star, 3, lr_scaleup=True)(0) == pytest.approx(0.2)


def test_warm_up_is_linear_from_lr_to_the_scaled_rate() -> None:
    found = rates((0, 1, 2.5, 5 - 1e-9, 5, 9), **SCALED, lr_warmup=True)
    assert found == pytest.approx([0.1, 0.2, 0.35, 0.6, 0.6, 0.6])
    assert schedule(**SCALED, lr_warmup=True).turning_points == (0, 5)


def test_warm_up_can_be_no_longer_than_nothing() -> None:
    assert rates((0,), **SCALED, lr_warmup=True, lr_warmup_epochs=0.0) == pytest.approx([0.6])


def test_warm_up_without_scale_up_changes_nothing() -> None:
    assert rates((0, 1, 5), lr_warmup=True) == [0.1] * 3


# The factor is 6 in all; after 0, 1.25, 2.5 and 5 of 5 epochs it is 1, 2.25, 3.5 and 6.
@pytest.mark.parametrize(
    ("flags", "want"),
    [
        (
            {"lr_schedule_scheme": "custom_multistep", "lr_change_epochs": (2.0, 5.0)},
            [0.1, 0.225, 0.035, 0.006, 0.006],
        ),
        (
            {
                "lr_schedule_scheme": "strict",
                "lr_fields": "0.1,0.5/0.2,0.1",
                "lr_scale_indicators": (0, 0),
                "lr_change_epochs": (5.0,),
            },
            [0.1, 0.2 * 2.25, 0.3 * 3.5, 0.2 * 6, 0.1 * 6],
        ),
        (
            {
                "lr_schedule_scheme": "custom_one_cycle",
                "lr_onecycle_low": 0.1,
                "lr_onecycle_high": 0.5,
                "lr_onecycle_extra_low": 0.01,
                "lr_onecycle_num_epoch": 10.0,
            },
            [0.1, 0.2 * 2.25, 0.3 * 3.5, 0.5 * 6, 0.01 * 6],
        ),
        (
            {
                "lr_schedule_scheme": "custom_convex_decay",
                "lr_gamma": 1.0,
                "lr_mu": 2.0,
                "lr_alpha": 5.0,
            },
            [1 / 10, 2.25 / 12.5, 3.5 / 15, 6 / 20, 6 / 34],
        ),
    ],
)
def test_scale_up_and_warm_up_multiply_the_course_of_a_scheme(
    flags: dict[str, Any], want: list[float]
) -> None:
    found = rates((0, 1.25, 2.5, 5, END), **SCALED, **flags, lr_warmup=True)
    assert found == pytest.approx(want)


@pytest.mark.parametrize(
    ("warm", "milestones", "points"),
    [(5.0, (2.0, 9.0), (0, 2, 5, 9)), (20.0, (2.0, 12.0, 15.0), (0, 2, 12))],
)
def test_turning_points_are_those_within_the_training(
    warm: float, milestones: tuple[float, ...], points: tuple[float, ...]
) -> None:
    course = schedule(
        **SCALED,
        lr_warmup=True,
        lr_warmup_epochs=warm,
        lr_schedule_scheme="custom_multistep",
        lr_change_epochs=milestones,
    )
    assert course.turning_points == points


def test_what_looks_at_no_loss_has_no_state() -> None:
    course = schedule()
    course.scheme.observe(1.0)
    assert course.scheme.state_dict() == {}
    course.scheme.load_state_dict({})
    assert course(1.0) == 0.1


@pytest.mark.parametrize("factor", ["many", "0", "-2", "nan", "inf"])
def test_a_bad_factor_is_refused(factor: str) -> None:
    with pytest.raises(UserError, match=f"^--lr_scaleup_factor {factor}: expected"):
        schedule(lr_scaleup=True, lr_scaleup_factor=factor)


CONVEX = "--lr_gamma 1 --lr_mu 1 --lr_alpha 1"


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ("--lr_schedule_scheme reduce_on_plateau --lr 0.2 --lr_decay 5", []),
        ("--lr_decay 5 --lr_fields 1,0", ["lr_decay", "lr_fields"]),
        ("--lr_schedule_scheme custom_one_cycle --lr 0.2", ["lr"]),
        (f"--lr_schedule_scheme custom_convex_decay {CONVEX} --lr 1", ["lr"]),
        (f"--lr_schedule_scheme strict --lr_scale_indicators 0,2 {CONVEX}", []),
        (
            f"--lr_schedule_scheme strict --lr_scale_indicators 0,1 {CONVEX}",
            ["lr_gamma", "lr_mu", "lr_alpha"],
        ),
        (f"--lr_scheduler MultiStepLR {CONVEX}", ["lr_gamma", "lr_mu", "lr_alpha"]),
        ("--lr_warmup True", ["lr_warmup"]),
        ("--lr_warmup True --lr_warmup_epochs 2", ["lr_warmup", "lr_warmup_epochs"]),
        ("--lr_warmup True --lr_warmup_epochs 2 --lr_scaleup True", []),
    ],
)
def test_flags_that_the_scheme_does_not_read_are_warned_of(given: str, warned: list[str]) -> None:
    warnings = parse(given.split()).warnings
    assert sorted(line.split(":")[0] for line in warnings) == sorted(f"--{name}" for name in warned)


# 1437 digits over 4 nodes in batches of 32 are 11 steps an epoch; 300 / 4 are 75 steps of a node.
STOPS_WITHIN_AN_EPOCH: dict[str, Any] = {
    "backend": "sim",
    "n_mpi_process": 4,
    "arch": "mlp",
    "stop_criteria": "iteration",
    "num_iterations": 300,
    "lr_schedule_scheme": "custom_one_cycle",
}


def test_a_run_ends_its_schedule_where_it_stops_and_says_where_the_rate_turns() -> None:
    plan = make_plan(make_config(**STOPS_WITHIN_AN_EPOCH, lr_onecycle_num_epoch=2.0))
    assert plan.schedule(3)(75 / 11) == pytest.approx(0.0015)
    told = describe(plan, []).partition("learning rate by epoch")[2].splitlines()[1:]
    assert told == ["  0: 0.15", "  1: 3", "  2: 0.15", "  6.81818: 0.0015"]


def test_a_run_refuses_a_cycle_that_is_longer_than_it() -> None:
    with pytest.raises(UserError, match=r"num_epoch 7: training ends after 6.81818 epochs"):
        make_plan(make_config(**STOPS_WITHIN_AN_EPOCH, lr_onecycle_num_epoch=7.0))


def test_a_run_tells_how_far_the_rates_of_its_nodes_differ() -> None:
    flags: dict[str, Any] = {"backend": "sim", "n_mpi_process": 4, "arch": "mlp"}
    plan = make_plan(make_config(**flags, graph_topology="star", lr_scaleup=True))
    assert describe(plan, []).endswith("between nodes it peaks at 0.2 to 0.4")
