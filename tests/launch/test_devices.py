"""CPU threads of nodes."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from pcode.errors import UserError
from pcode.launch.devices import num_usable_cores, threads_per_node


def test_threads_come_from_the_flag_then_the_variable_then_the_cores() -> None:
    assert threads_per_node(3, 2, {"OMP_NUM_THREADS": "5"}) == 3
    assert threads_per_node(None, 2, {"OMP_NUM_THREADS": "5"}) == 5
    assert threads_per_node(None, 2, {"OMP_NUM_THREADS": "5,2"}) == 5
    assert threads_per_node(None, 1, {}) == num_usable_cores()
    assert threads_per_node(None, 10 * num_usable_cores(), {}) == 1


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1.5", ",2"])
def test_bad_omp_num_threads_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="OMP_NUM_THREADS"):
        threads_per_node(None, 2, {"OMP_NUM_THREADS": text})


def test_cores_are_those_that_may_be_used() -> None:
    """A process that may use one core counts one."""
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    program += (
        "from pcode.launch.devices import threads_per_node; print(threads_per_node(None, 1, {}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=60
    )
    assert int(done.stdout) == 1


def test_cores_are_no_more_than_a_container_may_use() -> None:
    """A tenth of a core, as Docker's --cpus and Kubernetes' limits say it (cgroup v2)."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    count = "from pcode.launch.devices import num_usable_cores; print(num_usable_cores())"
    limit = "mount -t tmpfs tmpfs /sys/fs/cgroup && echo 10000 100000 > /sys/fs/cgroup/cpu.max"
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    tried = subprocess.run([*inside, limit], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    done = subprocess.run(
        [*inside, f"{limit} && exec {sys.executable} -c '{count}'"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "1\n", done.stderr
