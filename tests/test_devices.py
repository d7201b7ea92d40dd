"""CPU threads and GPUs of nodes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial

import joblib
import pytest
import torch

from pcode.config import make_config
from pcode.utils.devices import (
    check_compiler,
    check_gpus,
    device_of,
    gpu_notices,
    threads_per_node,
)
from pcode.utils.errors import HostError, UserError


def test_threads_come_from_the_flag_then_the_variable_then_the_cores() -> None:
    assert threads_per_node(3, 2, {"OMP_NUM_THREADS": "5"}) == 3
    assert threads_per_node(None, 2, {"OMP_NUM_THREADS": "5"}) == 5
    assert threads_per_node(None, 2, {"OMP_NUM_THREADS": "5,2"}) == 5
    assert threads_per_node(None, 1, {}) == joblib.cpu_count()
    assert threads_per_node(None, 10 * joblib.cpu_count(), {}) == 1


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1.5", ",2"])
def test_bad_omp_num_threads_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="OMP_NUM_THREADS"):
        threads_per_node(None, 2, {"OMP_NUM_THREADS": text})


def test_cores_are_those_that_may_be_used() -> None:
    """A process that may use one core counts one."""
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    program += (
        "from pcode.utils.devices import threads_per_node; print(threads_per_node(None, 1, {}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=60
    )
    assert int(done.stdout) == 1


def test_cores_are_no_more_than_a_container_may_use() -> None:
    """A tenth of a core, as Docker's --cpus and Kubernetes' limits say it (cgroup v2)."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    count = "from pcode.utils.devices import threads_per_node; print(threads_per_node(None, 1, {}))"
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


def test_world_lists_the_gpu_of_each_process_and_begins_again() -> None:
    launch = make_config(world=(0, 2, 1), on_cuda=True, n_mpi_process=5).launch
    assert [str(device_of(launch.on_cuda, launch.world, process)) for process in range(5)] == [
        *("cuda:0", "cuda:2", "cuda:1", "cuda:0", "cuda:2")
    ]
    (notice,) = gpu_notices(launch.world, 5)
    assert notice.startswith("--world 0,2,1: 3 GPU ids for 5 processes")
    assert gpu_notices(launch.world, 3) == []


def test_without_gpus_world_means_nothing() -> None:
    launch = make_config(world=(3,), on_cuda=False).launch
    assert str(device_of(launch.on_cuda, launch.world, 1)) == "cpu"


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check = partial(check_compiler, "--compile True", "C++", "CXX", ("g++", "clang++"), "or not")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"--compile True: needs a C\+\+ compiler: install g\+\+"):
        check()
    monkeypatch.setenv("CXX", "/opt/compiler")
    check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_a_gpu_may_start_others() -> None:
    launch = make_config(on_cuda=True).launch
    check_gpus(launch.world, [])
    with pytest.raises(HostError, match="--on_cuda True: this machine has no GPU"):
        check_gpus(launch.world, [0])


def test_no_tensor_is_made_at_import() -> None:
    """torch looks for the variable of use_memory_well when it allocates its first one."""
    program = """
import gc, torch, pcode.main, pcode.optim.fused
assert not any(isinstance(each, torch.Tensor) for each in gc.get_objects())
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    subprocess.run(command, check=True, timeout=60)
