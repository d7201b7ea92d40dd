"""The smoke tests' pods as they stand, in containers of the image, as Kubernetes starts them.

As the image's user, without capabilities, on a root folder that cannot be written to, within the
manifest's limits. A first run ends by itself. In a second one a pod is asked to go after an epoch:
all end with 75, and their successors with the same parameters as the first run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pcode.utils.errors import PREEMPTED
from tests.environments.engine import Engine, image
from tests.environments.pods import INDEX, Pod, RunningPod, make_pod, read_manifests
from tests.support.hosts import Hosts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),  # the first test waits for the images
    pytest.mark.usefixtures("kubectl"),
]
# What the MPI Operator adds to a launcher (its pkg/controller/mpi_job_controller.go).
OF_OPERATOR = {
    "K_MPI_JOB_ROLE": "launcher",
    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
    "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
    "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
    "OMPI_MCA_orte_set_default_slots": "1",
}
BEGUN = "epoch   1:"


class Cluster:
    """Pods of one run, and their volumes; what still runs at the end of a `with` block goes.

    Args:
        folder: an empty one, for volumes and output.
        hosts: with a network; None: every pod is by itself.
        names: by which pods know each other, one for each host.
    """

    def __init__(
        self, engine: Engine, folder: Path, hosts: Hosts | None = None, names: Sequence[str] = ()
    ) -> None:
        self._engine = engine
        self._folder, self._hosts, self._names = folder, hosts, names
        self._started: list[str] = []

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.output("podman", "rm", "--force", "--ignore", "--time=0", *self._started)

    def start(self, name: str, pod: Pod, host: int = 0, added: Sequence[str] = ()) -> RunningPod:
        """Start a pod on a host.

        Args:
            added: options of `podman run` besides those of the manifest.
        """
        own = self._folder / f"pod-{len(self._started)}"
        self._started.append(name)
        own.mkdir()
        options = [*pod.options(self._folder / "claim", own), *added]
        network, known = None, {name: "127.0.0.1"}
        if self._hosts is not None:
            addresses = [self._hosts.address(each) for each in self._hosts.names]
            known = {name: addresses[host], **dict(zip(self._names, addresses, strict=True))}
            network = self._hosts.process(self._hosts.names[host])
        options += [f"--add-host={each}:{address}" for each, address in known.items()]
        return RunningPod(
            self._engine,
            name,
            options,
            arguments=pod.container["args"],
            file=own / "output",
            network=network,
        )

    def digest(self, experiment: str) -> str:
        """The parameters' digest in the summary of the experiment's one run, which has learnt."""
        (file,) = self._folder.glob(f"claim/checkpoint/*/*/{experiment}/*/summary.json")
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        assert content["exit_reason"] == "finished"
        assert content["test_top1"] >= 90
        return str(content["parameters_sha256"])


def job(engine: Engine, folder: Path, is_preempted: bool) -> str:
    """The Job's pod, and the next one if it was asked to go."""
    pod = make_pod(read_manifests("overlays/smoke/job"), "Job")
    with Cluster(engine, folder) as cluster:
        running = cluster.start("choco-job-abcde", pod)
        running.await_text(BEGUN)
        running.await_success("healthcheck", "run", running.name)
        if is_preempted:
            running.ask_to_go()
            running.expect(PREEMPTED)
            assert "saved after step" in running.output
            running = cluster.start("choco-job-fghij", pod)
        running.expect(0)
        assert ("resumed after step" in running.output) == is_preempted
        return cluster.digest("job")


def indexed_job(engine: Engine, folder: Path, is_preempted: bool) -> str:
    """The Indexed Job's pods, on two hosts; one of them is asked to go."""
    manifests = read_manifests("overlays/smoke/indexed-job")
    service = "choco-indexed-job"
    names = [f"{service}-{index}.{service}" for index in range(2)]
    pods = [make_pod(manifests, "Job", {INDEX: str(index)}) for index in range(2)]
    with Hosts(2) as hosts, Cluster(engine, folder, hosts, names) as cluster:
        for is_asked in (True, False) if is_preempted else (False,):
            running = [
                cluster.start(f"{service}-{index}", pod, index) for index, pod in enumerate(pods)
            ]
            if is_asked:
                running[0].await_text(BEGUN)
                running[1].ask_to_go()
            for each in running:
                each.expect(PREEMPTED if is_asked else 0)
        return cluster.digest("indexed-job")


def mpi_job(engine: Engine, folder: Path, is_preempted: bool) -> str:
    """The MPIJob's workers on a host each, and its launcher; a worker is asked to go."""
    manifests = read_manifests("overlays/smoke/mpi-job")
    worker, launcher = make_pod(manifests, "Worker"), make_pod(manifests, "Launcher")
    probe = worker.container["readinessProbe"]["exec"]["command"]
    service = "choco-mpi-job"
    roles = ("worker-0", "worker-1", "launcher")
    names = [f"{service}-{role}.{service}.choco-sgd.svc" for role in roles]
    added = _of_operator(engine, folder / "operator", names[:2])
    variables = [f"--env={name}={value}" for name, value in OF_OPERATOR.items()]
    with Hosts(3) as hosts, Cluster(engine, folder, hosts, names) as cluster:
        for is_asked in (True, False) if is_preempted else (False,):
            workers = [
                cluster.start(f"{service}-{roles[host]}", worker, host, added) for host in range(2)
            ]
            for each in workers:
                each.await_success("exec", each.name, *probe)
            main = cluster.start(f"{service}-launcher", launcher, 2, [*added, *variables])
            if is_asked:
                main.await_text(BEGUN)
                workers[1].ask_to_go()
            main.expect(PREEMPTED if is_asked else 0)
            for each in workers[: 1 if is_asked else 2]:
                each.ask_to_go()
            for each in workers:
                each.expect(0)
        return cluster.digest("mpi-job")


def _of_operator(engine: Engine, folder: Path, workers: Sequence[str]) -> list[str]:
    """The hostfile and the key pair that the operator mounts in an MPIJob's pods."""
    folder.mkdir()
    keys, hostfile = folder / "keys", folder / "hostfile"
    keys.mkdir()
    hostfile.write_text("".join(f"{name} slots=1\n" for name in workers), encoding="utf-8")
    # It is called id_rsa, whatever it is.
    make = ["-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f", "/keys/id_rsa"]
    run = ["podman", "run", "--rm", "--network=none", "--user=0", f"--volume={keys}:/keys"]
    engine.output(*run, "--entrypoint=ssh-keygen", image("cpu"), *make)
    (keys / "id_rsa").chmod(0o644)
    return [f"--volume={keys}:/etc/choco-sgd/ssh:ro", f"--volume={hostfile}:/etc/mpi/hostfile:ro"]


@pytest.mark.usefixtures("hosts_possible")
@pytest.mark.parametrize("kind", [job, indexed_job, mpi_job])
def test_pods_end_and_go_on_after_a_preemption(kind: Any, engine: Engine, tmp_path: Path) -> None:
    digests = []
    for is_preempted in (False, True):
        folder = tmp_path / str(is_preempted)
        folder.mkdir()
        digests.append(kind(engine, folder, is_preempted))
    assert digests[0] == digests[1]
