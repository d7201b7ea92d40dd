"""Manifests: valid, allowed under the restricted Pod Security Standard, and of one mind."""

from __future__ import annotations

import copy
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pcode.config import parse
from pcode.launch.environment import detect
from pcode.launch.supervise import SAVE_LIMIT_SECONDS
from pcode.utils.errors import DIVERGED, PREEMPTED, USER_ERROR
from tests.environments import pods
from tests.environments.mpi_job_schema import MPI_JOB
from tests.environments.pods import INDEX, KUBERNETES, make_pod, pod_specs

pytestmark = pytest.mark.usefixtures("kubectl")
# What kubectl puts together: each kind, as it is and in each overlay.
KINDS = ("job", "indexed-job", "mpi-job")
BUILT = [
    f"{where}/{kind}" for where in ("base", "overlays/smoke", "overlays/gpu") for kind in KINDS
]
# podFailurePolicy and podReplacementPolicy are stable, or on by default, since then.
OLDEST, NEWEST = "1.31", kubernetes_validate.latest_version()
read_manifests = cache(pods.read_manifests)
# Volumes that the restricted standard allows.
ALLOWED_VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}


def validate(manifest: dict[str, Any], version: str) -> None:
    """Against the schema of Kubernetes, or of the operator; fields unknown to it are refused."""
    if manifest["kind"] != "MPIJob":
        kubernetes_validate.validate(manifest, version, strict=True)
        return
    jsonschema.validate(manifest, MPI_JOB)
    for spec in pod_specs([manifest]).values():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
        kubernetes_validate.validate(pod, version, strict=True)


def test_all_folders_are_put_together() -> None:
    files = KUBERNETES.rglob("kustomization.yaml")
    kinds = {str(file.parent.relative_to(KUBERNETES)) for file in files}
    parts = {"base/common", "overlays/smoke/settings", "overlays/gpu/settings"}
    assert kinds - parts == set(BUILT)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("built", BUILT)
def test_manifests_follow_their_schemas(built: str, version: str) -> None:
    manifests = read_manifests(built)
    assert {"Namespace", "ConfigMap", "PersistentVolumeClaim"} < {
        each["kind"] for each in manifests
    }
    for manifest in manifests:
        validate(manifest, version)


@pytest.mark.parametrize(
    ("built", "path"),
    [
        ("base/job", ["spec", "podFailurPolicy"]),
        ("base/mpi-job", ["spec", "slots"]),
        ("base/mpi-job", ["spec", "mpiReplicaSpecs", "Worker", "template", "spec", "container"]),
    ],
)
def test_a_misspelt_field_is_found(built: str, path: list[str]) -> None:
    manifest = copy.deepcopy(next(m for m in read_manifests(built) if "Job" in m["kind"]))
    place = manifest
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = []
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        validate(manifest, NEWEST)


@pytest.mark.parametrize("built", BUILT)
def test_pods_are_restricted(built: str) -> None:
    """Field by field, as the standard lists them."""
    (namespace,) = (each for each in read_manifests(built) if each["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    specs = pod_specs(read_manifests(built))
    assert specs
    for spec in specs.values():
        for field in ("hostNetwork", "hostPID", "hostIPC", "hostUsers"):
            assert field not in spec
        assert spec["automountServiceAccountToken"] is False
        assert all(set(volume) - {"name"} <= ALLOWED_VOLUMES for volume in spec["volumes"])
        whole = spec["securityContext"]
        assert whole["runAsNonRoot"] is True
        assert whole["runAsUser"] == 1000
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"sysctls", "seLinuxOptions", "windowsOptions"} & set(whole)
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert not any("hostPort" in port for port in container.get("ports", ()))


# Which label a job's pods get with its name: from the Job controller, and from the MPI Operator.
NAMED_BY = {"Job": "batch.kubernetes.io/job-name", "MPIJob": "training.kubeflow.org/job-name"}


@pytest.mark.parametrize("built", BUILT)
def test_pods_of_a_run_are_called_by_nobody_else(built: str) -> None:
    manifests = read_manifests(built)
    (job,) = (each for each in manifests if each["kind"] in NAMED_BY)
    (policy,) = (each for each in manifests if each["kind"] == "NetworkPolicy")
    own = {"matchLabels": {NAMED_BY[job["kind"]]: job["metadata"]["name"]}}
    assert policy["spec"]["podSelector"] == own
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    senders = [] if built.endswith("/job") else [{"from": [{"podSelector": own}]}]
    assert policy["spec"]["ingress"] == senders


@pytest.mark.parametrize("built", BUILT)
def test_pods_have_limits_and_time_to_save(built: str) -> None:
    for spec in pod_specs(read_manifests(built)).values():
        assert spec["terminationGracePeriodSeconds"] > SAVE_LIMIT_SECONDS + 15
        (container,) = spec["containers"]
        asked, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {name: limits[name] for name in ("cpu", "memory")} == asked
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/srv/choco-sgd/data", "/tmp"} <= mounted


@pytest.mark.parametrize("built", [each for each in BUILT if not each.endswith("mpi-job")])
def test_a_preempted_pod_is_not_counted_and_a_bad_flag_ends_the_job(built: str) -> None:
    (job,) = (each["spec"] for each in read_manifests(built) if each["kind"] == "Job")
    rules = job["podFailurePolicy"]["rules"]
    by_status = {
        status: rule["action"]
        for rule in reversed(rules)  # the first that fits holds
        for status in rule.get("onExitCodes", {}).get("values", ())
    }
    assert by_status == {PREEMPTED: "Ignore", USER_ERROR: "FailJob", DIVERGED: "FailJob"}
    conditions = [each["type"] for rule in rules for each in rule.get("onPodConditions", ())]
    assert conditions == ["DisruptionTarget"]
    assert job["podReplacementPolicy"] == "Failed"
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def _flags(built: str, role: str, index: int = 0) -> tuple[list[str], dict[str, str]]:
    """The flags of run.py in a pod, with those of its file in their places, and its variables."""
    pod = make_pod(read_manifests(built), role, {INDEX: str(index)})
    program, config, *others = pod.container["args"]
    assert program == "run.py"
    file = Path(config.removeprefix("--config=/etc/choco-sgd/flags/"))
    text = pod.config_maps["choco-flags"][str(file)]
    flags = [f"--{name}={value}" for name, value in yaml.safe_load(text).items()]
    return [*flags, *others], pod.variables()


@pytest.mark.parametrize("built", BUILT)
def test_as_many_nodes_are_started_as_the_flags_say(built: str) -> None:
    manifests = read_manifests(built)
    if built.endswith("indexed-job"):
        (job,) = (each["spec"] for each in manifests if each["kind"] == "Job")
        (service,) = (each["metadata"] for each in manifests if each["kind"] == "Service")
        assert job["completionMode"] == "Indexed"
        assert job["completions"] == job["parallelism"]
        for index in range(job["completions"]):
            flags, variables = _flags(built, "Job", index)
            place = detect(variables)
            assert place is not None
            assert (place.rank, place.num_ranks) == (index, job["completions"])
            assert place.num_local_ranks == 1
            assert variables["MASTER_ADDR"] == f"{service['name']}-0.{service['name']}"
            assert parse(flags).config.launch.backend == "gloo"
        assert job["template"]["spec"]["subdomain"] == service["name"]
        return
    role = "Launcher" if built.endswith("mpi-job") else "Job"
    flags, _ = _flags(built, role)
    launch = parse(flags).config.launch
    if role == "Launcher":
        (job,) = (each["spec"] for each in manifests if each["kind"] == "MPIJob")
        workers = job["mpiReplicaSpecs"]["Worker"]["replicas"]
        assert launch.n_mpi_process == workers * job["slotsPerWorker"]
        assert launch.hostfile == "/etc/mpi/hostfile"


@pytest.mark.parametrize("kind", KINDS)
def test_each_node_gets_a_gpu(kind: str) -> None:
    specs = pod_specs(read_manifests(f"overlays/gpu/{kind}"))
    role = "Worker" if kind == "mpi-job" else "Job"
    gpus = int(specs[role]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    flags, variables = _flags(f"overlays/gpu/{kind}", "Launcher" if kind == "mpi-job" else "Job")
    launch = parse(flags).config.launch
    assert launch.on_cuda is True
    assert len(launch.world) == gpus or kind == "indexed-job"
    nodes = launch.n_mpi_process if kind != "indexed-job" else int(variables["WORLD_SIZE"])
    pods = {"job": 1, "indexed-job": 4, "mpi-job": 2}[kind]
    assert gpus * pods == nodes
    assert all(spec["containers"][0]["image"] == "choco-sgd:cuda" for spec in specs.values())


def test_the_entry_point_looks_for_keys_where_the_operator_mounts_them() -> None:
    (job,) = (m["spec"] for m in read_manifests("base/mpi-job") if m["kind"] == "MPIJob")
    script = (KUBERNETES.parent / "docker/entrypoint").read_text(encoding="utf-8")
    assert f"keys=${{SSH_KEYS:-{job['sshAuthMountPath']}}}" in shlex.split(script, comments=True)
