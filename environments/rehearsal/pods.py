"""What Kubernetes would start for a manifest: the pods' commands, variables and volumes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from environments.rehearsal.container import Volume

KUBERNETES = Path(__file__).parents[1] / "kubernetes"
_ANNOTATION = re.compile(r"metadata\.annotations\['(.*)'\]")
INDEX = "batch.kubernetes.io/job-completion-index"
_SHARED_MEMORY = "/dev/shm"


def read_manifests(overlay: str) -> list[dict[str, Any]]:
    """What `kubectl apply --kustomize` would send, for a folder below environments/kubernetes."""
    command = ["kubectl", "kustomize", str(KUBERNETES / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{overlay}: {done.stderr}")
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
    """A pod of one container.

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
        return dict(found)

    def argv(self, entrypoint: Sequence[str], command: Sequence[str]) -> list[str]:
        """The whole command: what the manifest says nothing of is the image's."""
        container = self.container
        if "command" in container:
            return [*container["command"], *container.get("args", ())]
        return [*entrypoint, *container.get("args", command)]

    def variables(self) -> dict[str, str]:
        """What the manifest adds to the image's environment."""
        found = {}
        for entry in self.container.get("env", ()):
            if "value" in entry:
                found[entry["name"]] = entry["value"]
            else:
                path = entry["valueFrom"]["fieldRef"]["fieldPath"]
                match = _ANNOTATION.fullmatch(path)
                assert match is not None, f"{path} is not understood"
                found[entry["name"]] = self.annotations[match[1]]
        return found

    def volumes(self, claim: Path, own: Path, user: int | None) -> list[Volume]:
        """The volumes as folders.

        Args:
            claim: stands for every persistent volume.
            own: an empty folder of this pod, for the others.
            user: who owns them, where that is not this process's user.
        """
        sources = {volume["name"]: volume for volume in self.spec["volumes"]}
        found = []
        for mount in self.container["volumeMounts"]:
            volume, target = sources[mount["name"]], mount["mountPath"]
            if volume.get("emptyDir", {}).get("medium") == "Memory" and target == _SHARED_MEMORY:
                continue  # every container has one
            folder = claim if "persistentVolumeClaim" in volume else own / mount["name"]
            folder.mkdir(exist_ok=True)
            if "configMap" in volume:
                for name, text in self.config_maps[volume["configMap"]["name"]].items():
                    (folder / name).write_text(text, encoding="utf-8")
            if user is not None:
                os.chown(folder, user, user)
            found.append(Volume(folder, target, mount.get("readOnly", False)))
        return found


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
