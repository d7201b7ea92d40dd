"""What all tests share: hosts, a folder, Triton's interpreter, what is said of the slow tier."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, is_hypothesis_test, settings

from tests.support.hosts import Hosts, why_not
from tests.support.python import SHARED, quick_python

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


@pytest.fixture
def temporary() -> Iterator[str]:
    """A folder for what killed processes leave, whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder


# A busy machine may miss any deadline.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", _PATIENT, derandomize=True, max_examples=20)
settings.register_profile("slow", _PATIENT, max_examples=300)


def _is_default(config: pytest.Config) -> bool:
    return "not slow" in config.option.markexpr


def pytest_configure(config: pytest.Config) -> None:
    """By default the same few examples in every run; many, drawn anew, with the slow tests.

    The workers of pytest-xdist start programs by one rank server. What torch compiles is kept as
    long as the tests run.
    """
    settings.load_profile("default" if _is_default(config) else "slow")
    if hasattr(config, "workerinput"):
        return
    compiled = tempfile.TemporaryDirectory(prefix="choco-sgd-tests-")
    config.add_cleanup(compiled.cleanup)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled.name
    # Headers would be kept elsewhere, and take longer than what is compiled with them.
    os.environ["TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS"] = "0"
    if getattr(config.option, "numprocesses", None):
        os.environ[SHARED] = quick_python()  # imports, and compiles kernels, while workers collect


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """What takes as many examples as it is given belongs to both tiers."""
    if not _is_default(config):
        for item in items:
            if is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker("slow")


_LEFT_OUT = pytest.StashKey[int]()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count what is left out for its mark, and not for what else was asked for."""
    config = items[0].config
    if _is_default(config) and all(item.get_closest_marker("slow") for item in items):
        config.stash[_LEFT_OUT] = config.stash.get(_LEFT_OUT, 0) + len(items)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # a worker of pytest-xdist, which has no terminal
        output["left_out"] = session.config.stash.get(_LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # Every worker has collected all tests; one that crashed has told nothing.
    if hasattr(node, "workeroutput"):
        node.config.stash[_LEFT_OUT] = node.workeroutput["left_out"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    left_out = terminalreporter.config.stash.get(_LEFT_OUT, 0)
    if left_out:
        terminalreporter.write_line(
            f"{left_out} slow tests were left out: pytest -n 2 --dist worksteal -m slow runs them"
        )
