"""Fixtures of runs."""

from tests.run.bad_input import refuse

__all__ = ["refuse"]
