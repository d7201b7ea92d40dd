"""Steps of ranks, as their launcher finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pcode.launch.scratch import STEPS_VARIABLE, StepMark, marked_step


def test_last_step_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STEPS_VARIABLE, str(tmp_path))
    marks = [StepMark(rank) for rank in range(4)]
    marks[1](3)
    for step in range(5):
        marks[0](step)
    marks[2](1 << 40)
    assert [marked_step(tmp_path, rank) for rank in range(5)] == [4, 3, 1 << 40, None, None]


@pytest.mark.parametrize("folder", [None, "gone"])
def test_nothing_is_marked_where_there_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str | None
) -> None:
    """Under a user's own mpirun, and on other hosts."""
    monkeypatch.delenv(STEPS_VARIABLE, raising=False)
    if folder is not None:
        monkeypatch.setenv(STEPS_VARIABLE, str(tmp_path / folder))
    StepMark(0)(3)
    assert list(tmp_path.iterdir()) == []
