"""What tests of several folders share: hosts, where they can be made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pcode.hosts import Hosts, why_not


@pytest.fixture(scope="session")
def hosts_possible() -> None:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no hosts can be made here: {reason}")


@pytest.fixture
def four_hosts(hosts_possible: None) -> Iterator[Hosts]:
    with Hosts(4) as hosts:
        yield hosts
