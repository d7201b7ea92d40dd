"""Communicators: who am I, and exchanges with the other nodes."""

from pcode.communication.base import Communicator, Exchange
from pcode.communication.distributed import DistributedCommunicator
from pcode.communication.sim import SimCommunicator, Simulation

__all__ = ["Communicator", "DistributedCommunicator", "Exchange", "SimCommunicator", "Simulation"]
