"""Starting the nodes of a run: who am I, which mpirun, and how it ends."""

from pcode.launch.environment import (
    RankEnvironment,
    check_ranks,
    detect,
    num_nodes_of,
    rendezvous_address,
)
from pcode.launch.hostfile import Host, check_slots, read_hostfile
from pcode.launch.mpirun import goes_on, mpirun_command, runs_here
from pcode.launch.supervise import launch

__all__ = [
    "Host",
    "RankEnvironment",
    "check_ranks",
    "check_slots",
    "detect",
    "goes_on",
    "launch",
    "mpirun_command",
    "num_nodes_of",
    "read_hostfile",
    "rendezvous_address",
    "runs_here",
]
