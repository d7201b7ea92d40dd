"""The smoke tests' pods, as Kubernetes would start them, in containers of an image."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from environments.rehearsal.container import Container, Volume
from environments.rehearsal.image import Image
from environments.rehearsal.layers import Layers
from environments.rehearsal.pods import INDEX, Pod, make_pod, read_manifests
from environments.rehearsal.running import Running
from pcode.hosts import Hosts
from pcode.utils.errors import PREEMPTED, UserError

# What the MPI Operator adds to a launcher (its pkg/controller/mpi_job_controller.go).
OF_OPERATOR = {
    "K_MPI_JOB_ROLE": "launcher",
    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
    "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
    "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
    "OMPI_MCA_orte_set_default_slots": "1",
}
_BEGUN = "epoch   1:"
_HEALTH_LIMIT_SECONDS = 60.0


class Cluster:
    """Several hosts, on which pods of one image run as its user.

    Args:
        layers: where the image is.
        image: what all pods run.
        folder: an empty one, for roots and volumes.
        volumes: that all pods have, besides those of their manifests.
    """

    def __init__(
        self, layers: Layers, image: Image, folder: Path, volumes: Sequence[Volume] = ()
    ) -> None:
        self.claim = folder / "claim"
        self._volumes = volumes
        self._layers, self._image, self._folder = layers, image, folder
        self._user = image.user_id
        self._number = 0

    @contextlib.contextmanager
    def started(
        self,
        name: str,
        pod: Pod,
        *,
        hosts: Hosts | None = None,
        host: int = 0,
        names: Sequence[str] = (),
        added: Sequence[Volume] = (),
        variables: dict[str, str] | None = None,
    ) -> Iterator[Running]:
        """A pod that has been started.

        Args:
            name: its host name.
            hosts: the network; None: that of this machine.
            host: on which of them.
            names: by which pods know each other, one for each host.
            added: volumes besides those of the manifest.
            variables: besides those of the manifest.
        """
        self._number += 1
        own = self._folder / f"pod-{self._number}"
        own.mkdir()
        volumes = [*self._volumes, *pod.volumes(self.claim, own, self._user), *added]
        lines = ["127.0.0.1 localhost"]
        if hosts is None:
            lines.append(f"127.0.0.1 {name}")
        else:
            for number, each in enumerate(names):
                address = hosts.address(hosts.names[number])
                lines.append(f"{address} {each}" + (f" {name}" if number == host else ""))
        (own / "hosts").write_text("\n".join([*lines, ""]), encoding="utf-8")
        volumes.append(Volume(own / "hosts", "/etc/hosts", True))
        image = self._image
        environment = {**image.variables, **pod.variables(), **(variables or {})}
        with self._layers.mounted(image.layers, self._layers.add()) as root:
            container = Container(
                root,
                pod.argv(image.entrypoint, image.command),
                {"HOME": "/home/choco", "HOSTNAME": name, **environment},
                image.work_dir,
                self._user,
                is_read_only=True,
                volumes=volumes,
                hostname=name,
                network=None if hosts is None else hosts.process(hosts.names[host]),
            )
            yield Running(container, name)

    def await_health(self, pod: Running) -> None:
        """Wait until the image's health check is content, as Kubernetes waits for a worker.

        Raises:
            UserError: it is not in time.
        """
        deadline = time.monotonic() + _HEALTH_LIMIT_SECONDS
        while (done := pod.call(self._image.health, self._user)).returncode != 0:
            if time.monotonic() > deadline:
                raise UserError(f"the health check is not content: {done.stderr.strip()}")
            time.sleep(0.5)

    def ask_to_go(self, pod: Running) -> None:
        """What Kubernetes does first with a pod that has to go."""
        pod.send(signal.Signals[self._image.stop_signal])

    def summary(self, experiment: str) -> dict[str, Any]:
        """That of the experiment's one run.

        Raises:
            UserError: it has none, or no test accuracy.
        """
        files = list(self.claim.glob(f"checkpoint/*/*/{experiment}/*/summary.json"))
        if len(files) != 1:
            raise UserError(f"{experiment}: {len(files)} summaries instead of one")
        content: dict[str, Any] = json.loads(files[0].read_text(encoding="utf-8"))
        print(f"{experiment}: {content['exit_reason']}, test top-1 {content['test_top1']:.2f} %")
        return content


def rehearse(
    layers: Layers, image: Image, folder: Path, kind: str, volumes: Sequence[Volume] = ()
) -> None:
    """A kind of run's pods to their end, and once more with an end that is asked for in between.

    Args:
        kind: one of KINDS.

    Raises:
        UserError: something is not as it should be.
    """
    digests = []
    for is_preempted in (False, True):
        place = folder / f"{kind}-{is_preempted}"
        place.mkdir()
        cluster = Cluster(layers, image, place, volumes)
        digests.append(KINDS[kind](cluster, is_preempted)["parameters_sha256"])
    if digests[0] != digests[1]:
        raise UserError("a run that was preempted ends with other parameters")


def _expect(status: int, expected: int) -> None:
    if status != expected:
        raise UserError(f"status {status} instead of {expected}")


def _job(cluster: Cluster, is_preempted: bool) -> dict[str, Any]:
    """The Job's pod."""
    pod = make_pod(read_manifests("overlays/smoke/job"), "Job")
    with cluster.started("choco-job-abcde", pod) as running:
        running.await_text(_BEGUN)
        cluster.await_health(running)
        if is_preempted:
            cluster.ask_to_go(running)
        _expect(running.status(), PREEMPTED if is_preempted else 0)
    if is_preempted:
        with cluster.started("choco-job-fghij", pod) as running:
            _expect(running.status(), 0)
            running.await_text("resumed after step")
    return cluster.summary("job")


def _indexed_job(cluster: Cluster, is_preempted: bool) -> dict[str, Any]:
    """The Indexed Job's pods, on two hosts; one of them is asked to go."""
    manifests = read_manifests("overlays/smoke/indexed-job")
    service = "choco-indexed-job"
    names = [f"{service}-{index}.{service}" for index in range(2)]
    with Hosts(2) as hosts:
        for attempt in range(2 if is_preempted else 1):
            with ExitStack() as stack:
                pods = [
                    stack.enter_context(
                        cluster.started(
                            f"{service}-{index}",
                            make_pod(manifests, "Job", {INDEX: str(index)}),
                            hosts=hosts,
                            host=index,
                            names=names,
                        )
                    )
                    for index in range(2)
                ]
                is_asked = is_preempted and attempt == 0
                if is_asked:
                    pods[0].await_text(_BEGUN)
                    cluster.ask_to_go(pods[1])
                for pod in pods:
                    _expect(pod.status(), PREEMPTED if is_asked else 0)
    return cluster.summary("indexed-job")


def _mpi_job(cluster: Cluster, is_preempted: bool) -> dict[str, Any]:
    """The MPIJob's workers on a host each, and its launcher; a worker is asked to go."""
    manifests = read_manifests("overlays/smoke/mpi-job")
    service = "choco-mpi-job"
    roles = ["worker-0", "worker-1", "launcher"]
    names = [f"{service}-{role}.{service}.choco-sgd.svc" for role in roles]
    added = _of_operator(cluster.claim.with_name("operator"), names[:2])
    place: dict[str, Any] = {"names": names, "added": added}
    with Hosts(3) as hosts:
        for attempt in range(2 if is_preempted else 1):
            with ExitStack() as stack:
                workers = []
                for host in range(2):
                    pod = make_pod(manifests, "Worker")
                    name = f"{service}-{roles[host]}"
                    started = cluster.started(name, pod, hosts=hosts, host=host, **place)
                    workers.append(stack.enter_context(started))
                for running in workers:
                    cluster.await_health(running)
                launcher = stack.enter_context(
                    cluster.started(
                        f"{service}-launcher",
                        make_pod(manifests, "Launcher"),
                        hosts=hosts,
                        host=2,
                        variables=OF_OPERATOR,
                        **place,
                    )
                )
                is_asked = is_preempted and attempt == 0
                if is_asked:
                    launcher.await_text(_BEGUN)
                    cluster.ask_to_go(workers[1])
                _expect(launcher.status(), PREEMPTED if is_asked else 0)
                for running in workers[: 1 if is_asked else 2]:
                    cluster.ask_to_go(running)
                for running in workers:
                    _expect(running.status(), 0)
    return cluster.summary("mpi-job")


def _of_operator(folder: Path, workers: Sequence[str]) -> list[Volume]:
    """The hostfile and the key pair that the operator mounts in an MPIJob's pods."""
    folder.mkdir()
    keys, hostfile = folder / "keys", folder / "hostfile"
    keys.mkdir()
    hostfile.write_text("".join(f"{name} slots=1\n" for name in workers), encoding="utf-8")
    key = keys / "id_rsa"  # so called, whatever it is
    make = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", "", "-f", str(key)]
    subprocess.run(make, check=True)
    key.chmod(0o644)
    return [
        Volume(keys, "/etc/choco-sgd/ssh", True),
        Volume(hostfile, "/etc/mpi/hostfile", True),
    ]


KINDS = {"job": _job, "indexed-job": _indexed_job, "mpi-job": _mpi_job}
