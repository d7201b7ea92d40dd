"""Consensus alone, without gradients: how fast compressed gossip averages, and with which gamma."""

from pcode.consensus.search import GammaSearch, search_gamma
from pcode.consensus.simulate import (
    Consensus,
    Course,
    Measurement,
    Setting,
    gossip,
    measure,
    setting_of,
    slowest_mode,
)

__all__ = [
    "Consensus",
    "Course",
    "GammaSearch",
    "Measurement",
    "Setting",
    "gossip",
    "measure",
    "search_gamma",
    "setting_of",
    "slowest_mode",
]
