"""networkx, imported where a graph is made with it: importing it takes every start .2 s."""

from __future__ import annotations

import importlib
from typing import Any


def networkx() -> Any:
    """The module."""
    return importlib.import_module("networkx")
