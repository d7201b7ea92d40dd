"""python -m pcode.tools.unequal, and what it says of every optimizer."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from pcode.optim import OPTIMIZERS
from pcode.tools.unequal import METHODS, Course, Problem, follow, main

# What is left of the distance to the common optimum, by the papers: all of it but rounding goes
# (exact), the nodes' difference stays (biased), or less of it (less biased).
EXACT, LESS, BIASED = "exact", "less biased", "biased"
BOUNDS = {EXACT: (0, 5e-3), LESS: (5e-3, 5e-2), BIASED: (5e-2, 1)}
OUTCOMES = {
    "all-reduce SGD": EXACT,
    "D-PSGD": BIASED,
    "D-PSGD, momentum": BIASED,
    "quasi-global momentum": LESS,
    "DecentLaM, momentum": LESS,
    "D2": EXACT,
    "exact diffusion": EXACT,
    "gradient tracking": EXACT,
    "Momentum Tracking": EXACT,
    "SGP": LESS,
    "RelaySGD": EXACT,
    "PowerGossip": BIASED,
    "CHOCO, sign": BIASED,
    "CHOCO, top 2 of 10": BIASED,
    "BEER, sign": EXACT,
    "BEER, top 2 of 10": EXACT,
    "MoTEF, sign": EXACT,
    "MoTEF, top 2 of 10": EXACT,
    "LEAD, qsgd 2": EXACT,
    "DeepSqueeze, sign": BIASED,
    "DCD-PSGD, sign": BIASED,
}
# One of each kind; the others are slow.
BY_DEFAULT = ("DecentLaM, momentum", "exact diffusion", "gradient tracking", "BEER, sign")
NUM_STEPS = 1000
# They say nothing of unequal data here: as CHOCO, hardly converging, and centralized.
WITHOUT = {"ada_gossip", "ecd_psgd", "ef_sign_sgd", "dgc"}


@cache
def course(title: str) -> Course:
    torch.set_num_threads(1)
    (method,) = (each for each in METHODS if each.title == title)
    return follow(method, Problem(0), NUM_STEPS)


def test_every_optimizer_has_an_outcome() -> None:
    assert {each.title for each in METHODS} == OUTCOMES.keys()
    assert {each.optimizer for each in METHODS} == OPTIMIZERS.keys() - WITHOUT


@pytest.mark.parametrize(
    "title",
    [pytest.param(each, marks=() if each in BY_DEFAULT else pytest.mark.slow) for each in OUTCOMES],
)
def test_its_outcome_is_that_of_its_paper(title: str) -> None:
    low, high = BOUNDS[OUTCOMES[title]]
    assert low <= course(title).errors[-1] < high


@pytest.mark.parametrize("title", ["exact diffusion", "gradient tracking"])
def test_what_is_exact_comes_closer_as_long_as_it_goes_on(title: str) -> None:
    """In float64, by a factor that does not change: nothing is left in the end."""
    found = course(title)
    half = found.errors[np.searchsorted(found.steps, NUM_STEPS // 2)]
    assert found.errors[-1] < 1e-2 * half


def test_the_optimum_is_where_the_gradients_cancel() -> None:
    problem = Problem(3)
    gradients = problem.curvatures @ problem.optimum - problem.constants
    assert np.abs(gradients.sum(axis=0)).max() < 1e-9 * np.abs(gradients).max()
    assert np.abs(gradients).min() > 1e-3


def test_stochastic_gradients_leave_more_the_noisier_they_are() -> None:
    """In proportion to the noise, as all is linear: what is exact has its own noise alone."""
    torch.set_num_threads(1)
    (method,) = (each for each in METHODS if each.title == "exact diffusion")
    found = [follow(method, Problem(0), 400, noise).errors[-1] for noise in (10.0, 100.0)]
    assert found[1] / found[0] == pytest.approx(10, rel=0.05)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "errors.png"
    assert main(["--steps", "3", "--picture", str(picture)]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [title for title, *_ in rows] == [each.title for each in METHODS]
    # Ten numbers of 4 bytes to two neighbours.
    assert [rows[1][1], rows[1][3]] == ["ring", "80"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_mistake_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--steps", "0", "--picture", str(tmp_path / "errors.png")]) == 2
    assert capsys.readouterr().err == "unequal: error: --steps 0: must be at least 1\n"
    assert list(tmp_path.iterdir()) == []
