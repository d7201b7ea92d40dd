"""What tests of several folders share: hosts, where they can be made, and Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from pcode.hosts import Hosts, why_not

if not torch.cuda.is_available():
    # Triton reads it when it is imported, which any test may be the first to do.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def hosts_possible() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no hosts can be made here: {reason}")


@pytest.fixture
def four_hosts(hosts_possible: None) -> Iterator[Hosts]:
    with Hosts(4) as hosts:
        yield hosts


settings.register_profile("default", deadline=None, derandomize=True, max_examples=20)
settings.register_profile("slow", deadline=None, max_examples=300)


def pytest_configure(config: pytest.Config) -> None:
    """By default the same few examples in every run; many, drawn anew, with the slow tests."""
    settings.load_profile("default" if config.option.markexpr == "not slow" else "slow")
