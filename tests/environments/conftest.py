"""Fixtures of what runs in containers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.environments.engine import Engine, shared_engine, why_not


@pytest.fixture(scope="session")
def kubectl() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl found, which puts manifests together")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Both images, built once, by whichever of pytest-xdist's workers needs them first."""
    folder = tmp_path_factory.getbasetemp()
    if (reason := why_not(folder)) is not None:
        pytest.skip(f"no image can be built here: {reason}")
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with shared_engine(folder / "engine") as found:
        yield found
