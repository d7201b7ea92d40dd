"""A cluster of two hosts with a real Slurm of its own, where its programs are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.support.hosts import Hosts
from tests.support.programs import ROOT

PROGRAMS = (
    "munged",
    "mungekey",
    "sbatch",
    "scancel",
    "scontrol",
    "sinfo",
    "slurmctld",
    "slurmd",
    "squeue",
    "srun",
)
LIMIT_SECONDS = 300.0
# More cores than the machine has: the scripts ask for eight a host.
CONFIG = """
ClusterName=two
SlurmctldHost={first}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
TmpFS={folder}/%n
NodeName={names} CPUs=8 CoresPerSocket=8 RealMemory=1024 State=UNKNOWN
PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """The reason why there is no Slurm here, or None."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        return "it needs to be root"
    if missing:
        return f"no {missing[0]} (Debian: slurm-wlm, munge, and libpmix-dev for ranks over MPI)"
    return None


class Slurm:
    """munged, slurmctld and a slurmd on each of two hosts, until `left` closes.

    Attributes:
        has_pmix: whether its srun can start ranks over MPI.
    """

    def __init__(self, hosts: Hosts, left: ExitStack) -> None:
        self._hosts, self._left = hosts, left
        # Not pytest's: the paths of sockets have to be short.
        self._folder = Path(left.enter_context(tempfile.TemporaryDirectory(prefix="slurm-")))
        self._folder.chmod(0o755)  # munged wants its socket to be within everybody's reach
        self._variables = {
            **{name: text for name, text in os.environ.items() if name != "OMP_NUM_THREADS"},
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SLURM_CONF": str(self._folder / "slurm.conf"),
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        }
        first, folder = self._hosts.names[0], self._folder
        for name in ("state", *self._hosts.names):
            (folder / name).mkdir()
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                first=f"{first}({self._hosts.address(first)})",
                folder=folder,
                names=",".join(self._hosts.names),
            )
        )
        # Nothing is kept in control groups, but this version looks for them all the same.
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key, socket = folder / "munge.key", folder / "munge"
        subprocess.run(["mungekey", f"--keyfile={key}"], check=True)
        files = [f"--{name}-file={folder}/munged.{name}" for name in ("log", "pid", "seed")]
        self._start(first, "munged", "-F", f"--key-file={key}", f"--socket={socket}", *files)
        self._start(first, "slurmctld", "-D", "-i")
        for name in self._hosts.names:
            self._start(name, "slurmd", "-D", "-N", name)
        self.await_text(r"idle\n.*idle", "sinfo", "--Node", "--noheader", "--format=%N %t")
        self.has_pmix = "host-1" in self.output("srun", "--mpi=pmix", "hostname")

    def _start(self, host: str, *argv: str) -> None:
        log = self._left.enter_context((self._folder / f"{host}-{argv[0]}.out").open("wb"))
        process = subprocess.Popen(
            self._hosts.command(host, argv),
            env=self._variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        self._left.callback(process.wait, LIMIT_SECONDS)
        self._left.callback(process.terminate)

    def output(self, *argv: str) -> str:
        """What a program prints on the first host, in the root of the repository."""
        return subprocess.run(
            self._hosts.command(self._hosts.names[0], argv, ROOT),
            env=self._variables,
            capture_output=True,
            text=True,
            check=False,  # slurmctld may not listen yet, a file not be there
            timeout=LIMIT_SECONDS,
        ).stdout

    def await_text(self, pattern: str, *argv: str) -> str:
        """Ask until the pattern is in the answer; Slurm itself tells nobody."""
        end = time.monotonic() + LIMIT_SECONDS
        while not re.search(pattern, answer := self.output(*argv)):
            if time.monotonic() > end:
                told = [file.read_text() for file in sorted(self._folder.glob("*.out"))]
                raise TimeoutError(f"no {pattern} in {argv}: {answer}\n{''.join(told)}")
            time.sleep(0.2)
        return answer
