"""Fixtures of what runs in containers."""

from __future__ import annotations

import shutil

import pytest


@pytest.fixture(scope="session")
def kubectl() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl found, which puts manifests together")
