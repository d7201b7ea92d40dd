"""What the MPI Operator's API, kubeflow.org/v2beta1, lets an MPIJob say.

Written from its API documentation and types (pkg/apis/kubeflow/v2beta1/types.go and the checks in
pkg/apis/kubeflow/validation): names, types and allowed values. Pod templates are Kubernetes' own
and are checked by its schemas.
"""

from __future__ import annotations

from typing import Any


def _object(required: list[str], **properties: dict[str, Any]) -> dict[str, Any]:
    """A mapping of these names and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _one_of(*values: str) -> dict[str, Any]:
    return {"enum": list(values)}


_NATURAL = {"type": "integer", "minimum": 0}
_TEMPLATE = {"type": "object", "required": ["spec"]}


def _replica(**replicas: int) -> dict[str, Any]:
    return _object(
        ["replicas", "template"],
        replicas={"type": "integer", "minimum": 1, **replicas},
        restartPolicy=_one_of("Never", "OnFailure"),
        template=_TEMPLATE,
    )


_SCHEDULING = _object(
    [],
    minAvailable=_NATURAL,
    queue={"type": "string"},
    minResources={"type": "object"},
    priorityClass={"type": "string"},
    scheduleTimeoutSeconds=_NATURAL,
)
_RUN_POLICY = _object(
    [],
    cleanPodPolicy=_one_of("None", "Running", "All"),
    ttlSecondsAfterFinished=_NATURAL,
    activeDeadlineSeconds=_NATURAL,
    backoffLimit=_NATURAL,
    schedulingPolicy=_SCHEDULING,
    suspend={"type": "boolean"},
    managedBy={"type": "string"},
)
MPI_JOB = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "kubeflow.org/v2beta1"},
    kind={"const": "MPIJob"},
    metadata=_object(
        ["name"],
        name={"type": "string"},
        namespace={"type": "string"},
        labels={"type": "object"},
        annotations={"type": "object"},
    ),
    spec=_object(
        ["mpiReplicaSpecs"],
        slotsPerWorker=_NATURAL,
        runLauncherAsWorker={"type": "boolean"},
        runPolicy=_RUN_POLICY,
        mpiReplicaSpecs=_object(["Launcher"], Launcher=_replica(maximum=1), Worker=_replica()),
        sshAuthMountPath={"type": "string", "pattern": "^/"},
        launcherCreationPolicy=_one_of("AtStartup", "WaitForWorkersReady"),
        mpiImplementation=_one_of("OpenMPI", "Intel", "MPICH"),
    ),
)
