"""`run.py --check`: what a run needs, looked at on every host, without training or writing."""

from pcode.check.check import check

__all__ = ["check"]
