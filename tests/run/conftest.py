"""Fixtures of runs."""

from tests.run.bad_input import refuse
from tests.run.started import started

__all__ = ["refuse", "started"]
