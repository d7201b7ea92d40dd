"""What Kubernetes would start for a manifest, as containers of podman's."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.environments.engine import Engine, image
from tests.support.programs import ROOT

KUBERNETES = ROOT / "environments/kubernetes"
INDEX = "batch.kubernetes.io/job-completion-index"
# Of each wait; several times what it takes on a machine that is busy with other things as well.
LIMIT_SECONDS = 900.0
_ANNOTATION = re.compile(r"metadata\.annotations\['(.*)'\]")
_SHARED_MEMORY = "/dev/shm"


def read_manifests(overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply --kustomize` would send, for a folder below environments/kubernetes."""
    command = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{overlay}: {done.stderr}"
    return list(yaml.safe_load_all(done.stdout))


def pod_specs(manifests: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The pods' specifications, by role: `Job`, or of an MPIJob `Launcher` and `Worker`."""
    found = {}
    for manifest in manifests:
        if manifest["kind"] == "Job":
            found["Job"] = manifest["spec"]["template"]["spec"]
        elif manifest["kind"] == "MPIJob":
            for role, replica in manifest["spec"]["mpiReplicaSpecs"].items():
                found[role] = replica["template"]["spec"]
    return found


@dataclass(frozen=True)
class Pod:
    """A pod of one container, which runs the image's entry point.

    Attributes:
        spec: its specification.
        config_maps: the files of those in the manifests, by name.
        annotations: that Kubernetes gives it.
    """

    spec: Mapping[str, Any]
    config_maps: Mapping[str, Mapping[str, str]]
    annotations: Mapping[str, str]

    @property
    def container(self) -> Mapping[str, Any]:
        (found,) = self.spec["containers"]
        assert "command" not in found
        return dict(found)

    def variables(self) -> dict[str, str]:
        """What the manifest adds to the image's environment."""
        found = {}
        for entry in self.container.get("env", ()):
            if "value" in entry:
                found[entry["name"]] = entry["value"]
            else:
                match = _ANNOTATION.fullmatch(entry["valueFrom"]["fieldRef"]["fieldPath"])
                assert match is not None, entry
                found[entry["name"]] = self.annotations[match[1]]
        return found

    def options(self, claim: Path, own: Path) -> list[str]:
        """What `podman run` is told of the manifest.

        Args:
            claim: stands for every persistent volume.
            own: an empty folder of this pod, for the other volumes.
        """
        whole, limits = self.spec["securityContext"], self.container["resources"]["limits"]
        restrictions = self.container["securityContext"]
        assert restrictions["readOnlyRootFilesystem"] is True
        assert restrictions["allowPrivilegeEscalation"] is False
        words = ["--read-only", "--read-only-tmpfs=false", "--security-opt=no-new-privileges"]
        words += [f"--cap-drop={name}" for name in restrictions["capabilities"]["drop"]]
        words += [f"--user={whole['runAsUser']}:{whole['runAsGroup']}"]
        words += [f"--cpus={limits['cpu']}", f"--memory={_size(limits['memory'])}"]
        words += [f"--env={name}={value}" for name, value in self.variables().items()]
        sources = {volume["name"]: volume for volume in self.spec["volumes"]}
        for mount in self.container["volumeMounts"]:
            volume, target = sources[mount["name"]], mount["mountPath"]
            if target == _SHARED_MEMORY:
                assert volume["emptyDir"]["medium"] == "Memory"
                words.append(f"--shm-size={_size(volume['emptyDir']['sizeLimit'])}")
                continue
            folder = claim if "persistentVolumeClaim" in volume else own / mount["name"]
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in self.config_maps.get(
                volume.get("configMap", {}).get("name"), {}
            ).items():
                (folder / name).write_text(text, encoding="utf-8")
            os.chown(folder, whole["runAsUser"], whole["fsGroup"])
            access = "ro" if mount.get("readOnly", False) else "rw"
            words.append(f"--volume={folder}:{target}:{access}")
        return words


def make_pod(
    manifests: Sequence[Mapping[str, Any]], role: str, annotations: Mapping[str, str] | None = None
) -> Pod:
    """The pod of a role among the manifests."""
    maps = {
        manifest["metadata"]["name"]: manifest["data"]
        for manifest in manifests
        if manifest["kind"] == "ConfigMap"
    }
    return Pod(pod_specs(manifests)[role], maps, annotations or {})


def _size(quantity: str) -> str:
    """One of Kubernetes' quantities, as podman writes it."""
    return quantity.removesuffix("Gi") + "g"


class RunningPod:
    """A container that has been started.

    Args:
        name: its own, and its host's.
        options: of `podman run`.
        arguments: of the image's entry point.
        file: where its output goes.
        network: a process in whose network it lives; None: it has one without other hosts.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        options: Sequence[str],
        *,
        arguments: Sequence[str],
        file: Path,
        network: int | None = None,
    ) -> None:
        self.name, self._engine, self._file, self._network = name, engine, file, network
        words = ["podman", "run", "--rm", f"--name={name}", f"--hostname={name}"]
        words += [f"--network={'none' if network is None else 'host'}", *options]
        command = engine.command(*words, image("cpu"), *arguments, network=network)
        with file.open("wb") as stream:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._file.read_text(encoding="utf-8", errors="replace")

    def await_text(self, text: str) -> None:
        """Wait until it has printed `text`."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while text not in self.output:
            assert time.monotonic() < deadline, self.output
            assert self._process.poll() is None, self.output
            time.sleep(0.1)

    def await_success(self, *podman: str) -> None:
        """Wait until a command of podman's ends with 0, as a probe has to."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            # A command in a container is in its caller's network, where that is not podman's.
            command = self._engine.command("podman", *podman, network=self._network)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, done.stdout + done.stderr + self.output
            assert self._process.poll() is None, self.output
            time.sleep(0.5)

    def ask_to_go(self) -> None:
        """Send the signal that Kubernetes and `docker stop` send first."""
        self._engine.output("podman", "kill", "--signal", "TERM", self.name)

    def expect(self, status: int) -> None:
        """Wait until it ends, with that exit status."""
        assert self._process.wait(LIMIT_SECONDS) == status, self.output
