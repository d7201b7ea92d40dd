"""Every scheme against rates worked out by hand, at and around each change of its course."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pcode.config import make_config
from pcode.schedules import SCHEMES, Scheme, make_scheme
from pcode.utils.errors import UserError
from pcode.utils.options import taken_by


def scheme(name: str, end: float, **flags: Any) -> Scheme:
    config = make_config(lr_schedule_scheme=name, **flags)
    return make_scheme(name, end, **taken_by(SCHEMES[name], config.flat()))


def rates(course: Scheme, epochs: Sequence[float]) -> list[float]:
    return [course(epoch) for epoch in epochs]


FLAGS: dict[str, dict[str, Any]] = {
    "constant": {},
    "custom_multistep": {"lr_change_epochs": (4.0, 6.0)},
    "strict": {"lr_fields": "0.1,1", "lr_scale_indicators": (0,)},
    "custom_one_cycle": {"lr_onecycle_num_epoch": 6.0},
    "custom_convex_decay": {"lr_gamma": 1.0, "lr_mu": 2.0, "lr_alpha": 5.0},
    "reduce_on_plateau": {},
}


@pytest.mark.parametrize("name", SCHEMES)
def test_every_scheme_stays_within_its_peak_and_keeps_to_the_training(name: str) -> None:
    course = scheme(name, 8.0, **FLAGS[name])
    fine = rates(course, [8 * step / 1000 for step in range(1001)])
    assert min(fine) > 0
    assert max(fine) == pytest.approx(course.peak)
    assert all(0 <= epoch <= 8 for epoch in course.turning_points)
    assert course.description


def test_constant() -> None:
    assert rates(scheme("constant", 5.0, lr=0.3), (0, 2.5, 5)) == [0.3] * 3


@pytest.mark.parametrize("decay", [10.0, 0.1])
def test_multistep_divides_at_each_milestone(decay: float) -> None:
    course = scheme("custom_multistep", 300.0, lr_change_epochs=(150.0, 225.0), lr_decay=decay)
    found = rates(course, (0, 149.99, 150, 224.99, 225, 300))
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert course.turning_points == (150, 225)


def test_multistep_accepts_milestones_after_the_training() -> None:
    assert scheme("custom_multistep", 3.0, lr_change_epochs=(2.0, 5.0))(3.0) == pytest.approx(0.01)


CONVEX: dict[str, Any] = {"lr_gamma": 3.0, "lr_mu": 0.5, "lr_alpha": 2.0}


def test_convex_decay() -> None:
    course = scheme("custom_convex_decay", 10.0, **CONVEX)
    # 3 / (.5 * (2 + t)) = 6 / (2 + t)
    assert rates(course, (0, 1, 2.5, 10)) == pytest.approx([3, 2, 6 / 4.5, 0.5])
    assert course.turning_points == (10,)


PHASES: dict[str, Any] = {
    "lr_fields": "0.1,0.5/0.4,0.2/9,9",
    "lr_scale_indicators": (0, 1, 2),
    **CONVEX,
}


@pytest.mark.parametrize("changes", [(2.0, 6.0), (0.0, 2.0, 6.0), (2.0, 6.0, 10.0)])
def test_strict_follows_each_phase(changes: tuple[float, ...]) -> None:
    course = scheme("strict", 10.0, lr_change_epochs=changes, **PHASES)
    linear = rates(course, (0, 0.5, 1, 2 - 1e-9))
    assert linear == pytest.approx([0.1, 0.2, 0.3, 0.5])
    # .2 + .2 (1 - s)^2 at s = 0, 1/4, 1/2 and almost 1
    polynomial = rates(course, (2, 3, 4, 6 - 1e-9))
    assert polynomial == pytest.approx([0.4, 0.2 + 0.2 * 9 / 16, 0.25, 0.2])
    # Time runs on from the beginning of training: 6 / (2 + t).
    assert rates(course, (6, 8, 10)) == pytest.approx([0.75, 0.6, 0.5])
    assert course.turning_points == (0, 2, 6, 10)
    assert course.peak == pytest.approx(0.75)


@pytest.mark.parametrize(("indicator", "middle"), [(0, 0.6), (1, 0.2 + 0.8 / 4)])
def test_strict_with_one_phase_ends_where_it_says(indicator: int, middle: float) -> None:
    course = scheme("strict", 2.5, lr_fields="1,0.2", lr_scale_indicators=(indicator,))
    assert rates(course, (0, 1.25, 2.5)) == pytest.approx([1, middle, 0.2])
    assert course.peak == 1


def test_one_cycle() -> None:
    course = scheme(
        "custom_one_cycle",
        8.5,
        lr_onecycle_low=0.2,
        lr_onecycle_high=1.0,
        lr_onecycle_extra_low=0.1,
        lr_onecycle_num_epoch=6.0,
    )
    assert rates(course, (0, 1.5, 3)) == pytest.approx([0.2, 0.6, 1.0])
    assert rates(course, (4.5, 6)) == pytest.approx([0.6, 0.2])
    assert rates(course, (7.25, 8.5)) == pytest.approx([0.15, 0.1])
    assert course.turning_points == (0, 3, 6, 8.5)


def test_one_cycle_of_the_whole_training_ends_low() -> None:
    course = scheme("custom_one_cycle", 46.0)
    assert rates(course, (0, 23, 46)) == pytest.approx([0.15, 3, 0.15])
    assert course.turning_points == (0, 23, 46)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("custom_multistep", {}, r"^--lr_schedule_scheme custom_multistep: needs --lr_change_epochs"),
    ("custom_multistep", {"lr_change_epochs": (5.0, 2.0)}, r"^--lr_change_epochs 5,2: .*ascending"),
    ("custom_multistep", {"lr_change_epochs": (2.0, 2.0)}, r"^--lr_change_epochs 2,2: .*ascending"),
    ("custom_multistep", {"lr_change_epochs": (2.0,), "lr_decay": 0.0}, r"^--lr_decay 0: .*above"),
    ("reduce_on_plateau", {"lr_decay": -1.0}, r"^--lr_decay -1: .*above 0"),
    ("reduce_on_plateau", {"lr_decay": 1.0}, r"^--lr_decay 1: .*never change"),
    ("custom_one_cycle", {}, r"^--lr_onecycle_num_epoch 46: training ends after 8 epochs"),
    ("custom_one_cycle", {"lr_onecycle_num_epoch": 0.0}, r"^--lr_onecycle_num_epoch 0: .*above 0"),
    ("custom_convex_decay", {}, r"needs --lr_gamma and --lr_mu and --lr_alpha"),
    ("custom_convex_decay", {"lr_gamma": 1.0, "lr_alpha": 1.0}, r"convex_decay: needs --lr_mu,"),
    ("custom_convex_decay", {**CONVEX, "lr_gamma": 0.0}, r"^--lr_gamma 0: must be above 0"),
    ("custom_convex_decay", {**CONVEX, "lr_mu": -2.0}, r"^--lr_mu -2: must be above 0"),
    ("custom_convex_decay", {**CONVEX, "lr_alpha": 0.0}, r"^--lr_alpha 0: must be above 0"),
    ("strict", {}, r"^--lr_schedule_scheme strict: needs --lr_fields"),
    ("strict", {"lr_fields": "1,0"}, r"^--lr_schedule_scheme strict: needs --lr_scale_indicators"),
    *(
        ("strict", {"lr_fields": fields, "lr_scale_indicators": (0,)}, "^--lr_fields .*expected")
        for fields in ("1", "1,2,3", "a,b", "1,0/", "-1,0", "nan,1", "inf,1", "")
    ),
    *(
        ("strict", {"lr_change_epochs": changes, **PHASES}, words)
        for changes, words in (
            ((5.0,), r"^--lr_fields .*is for 3 .* there are 2 \(epochs 0 to 5, 5 to 8\)"),
            ((3.0, 2.0), r"^--lr_change_epochs 3,2: must be ascending"),
            ((3.0, 9.0), r"^--lr_change_epochs 3,9: training ends after 8 epochs"),
        )
    ),
    ("strict", {"lr_fields": "1,0", "lr_scale_indicators": (0, 1)}, r"^--lr_scale_indicators 0,1:"),
    ("strict", {"lr_fields": "1,0", "lr_scale_indicators": (3,)}, r"^--lr_scale_indicators 3: exp"),
    ("strict", {"lr_fields": "1,0", "lr_scale_indicators": (-1,)}, r"^--lr_scale_indicators -1:"),
    ("strict", {"lr_fields": "1,0", "lr_scale_indicators": (2,)}, r"strict: needs --lr_gamma and"),
    (
        "strict",
        {**PHASES, "lr_change_epochs": (2.0, 6.0), "lr_alpha": -6.0},
        r"^--lr_alpha -6: must be above -6",
    ),
]


@pytest.mark.parametrize(("name", "flags", "words"), REFUSED)
def test_what_cannot_be_followed_is_refused(name: str, flags: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        scheme(name, 8.0, **flags)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("--")


def test_convex_decay_may_start_late() -> None:
    """lr_alpha may be negative where the phase begins late enough."""
    course = scheme("strict", 8.0, **{**PHASES, "lr_change_epochs": (2.0, 6.0), "lr_alpha": -5.0})
    assert course(6.0) == pytest.approx(3 / (0.5 * 1))
