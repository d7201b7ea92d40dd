"""The smoke tests' pods as they stand: on this machine's files, but as Kubernetes starts them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from pcode.hosts import why_not
from tests.support.programs import ROOT

SSHD = "/usr/sbin/sshd"


def why_no_containers() -> str | None:
    """Why no container can be started here, or None where it can."""
    if os.geteuid() != 0:
        return "a root folder can only be made by root"
    if (reason := why_not()) is not None:
        return reason
    mount = "mount -t tmpfs tmpfs /mnt && cd /mnt && mkdir up work root && mount -t overlay overlay"
    mount += " -o lowerdir=/,upperdir=up,workdir=work root && chroot root true"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "sh", "-c", mount],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no overlays: {tried.stderr.strip()}" if tried.returncode != 0 else None


@pytest.mark.usefixtures("kubectl")
@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["job", "indexed-job", "mpi-job"])
def test_pods_end_and_go_on_after_a_preemption(kind: str) -> None:
    """As the image's user, without capabilities, on a root folder that cannot be written to.

    A first run ends by itself. In a second one a pod is asked to go after an epoch: all end with
    75, and their successors with the same parameters as the first run.
    """
    reason = why_no_containers()
    if reason is None and kind == "mpi-job" and shutil.which(SSHD) is None:
        reason = f"no {SSHD} (Debian's package openssh-server)"
    if reason is not None:
        pytest.skip(reason)
    command = [sys.executable, "-m", "environments.rehearsal", "--here", "--kind", kind]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=880,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(f"{kind}: finished, test top-1 9") == 2
    assert "saved after step" in done.stdout
    assert "resumed after step" in done.stdout
