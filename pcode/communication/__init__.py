"""Communicators: who am I, and exchanges with the other nodes."""

from pcode.communication.base import Communicator, Exchange, ProcessCommunicator
from pcode.communication.distributed import DistributedCommunicator
from pcode.communication.node import NodeCommunicator, by_nodes
from pcode.communication.sim import SimCommunicator, Simulation

__all__ = [
    "Communicator",
    "DistributedCommunicator",
    "Exchange",
    "NodeCommunicator",
    "ProcessCommunicator",
    "SimCommunicator",
    "Simulation",
    "by_nodes",
]
