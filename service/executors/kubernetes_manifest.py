"""What a Kubernetes cluster is asked to make for an execution: plain dicts, built without calling anything."""

from collections.abc import Mapping
from typing import Any

from service.executors.base import Launch
from service.executors.kubernetes_multi_node import headless_service, indexed_job, job_set, place_in_job, place_in_set
from service.executors.kubernetes_pod import ON_DISRUPTION, on_exit_code, pod_spec, without_empty
from service.executors.kubernetes_settings import QUEUE_NAME_LABEL, KubernetesSettings
from tuning.contract import ExitCode

Manifest = dict[str, Any]
"""An object of Kubernetes' API, as its JSON."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
COMPONENT_LABEL = "app.kubernetes.io/component"
INSTANCE_LABEL = "app.kubernetes.io/instance"
EXECUTION_LABEL = "fettle.dev/execution"
JOB_LABEL = "fettle.dev/job"
PROJECT_LABEL = "fettle.dev/project"

_MANAGED_BY = "fettle"
_COMPONENT = "trainer"


def object_name(execution: str) -> str:
    """Of the Job, JobSet and Service of an execution. The label carries the execution's exact name."""
    return execution.lower()


def instance_selector(settings: KubernetesSettings) -> str:
    """Finds all Jobs, JobSets, pods and Services that this installation made for trainers."""
    labels = {MANAGED_BY_LABEL: _MANAGED_BY, COMPONENT_LABEL: _COMPONENT, INSTANCE_LABEL: settings.instance}
    return ",".join(f"{key}={value}" for key, value in labels.items())


def execution_selector(execution: str, settings: KubernetesSettings) -> str:
    """Finds the same of one execution."""
    return f"{instance_selector(settings)},{EXECUTION_LABEL}={execution}"


def execution_of(manifest: Mapping[str, Any]) -> str | None:
    """The name of the execution that an object was made for; None: it is not ours."""
    labels = manifest["metadata"].get("labels") or {}
    is_ours = labels.get(MANAGED_BY_LABEL) == _MANAGED_BY and labels.get(COMPONENT_LABEL) == _COMPONENT
    return labels.get(EXECUTION_LABEL) if is_ours else None


def manifests(launch: Launch, settings: KubernetesSettings, environment: Mapping[str, str]) -> list[Manifest]:
    """First the Job or JobSet; then, for an Indexed Job of several nodes, its Service, to be made by `owned_by`.

    `environment`: of the container, nothing secret. Raises KubernetesSettingsError when the settings say otherwise.
    The namespace is left to the caller. Created one after the other; a second start that is told that the first one
    is there already (409) reads it, and goes on with the next.
    """
    settings.refuse_collisions(environment)
    name, nodes = object_name(launch.name), launch.resources.nodes
    labels = settings.labels | _labels(launch, settings)
    pod = {
        "metadata": without_empty({"labels": labels, "annotations": settings.annotations}),
        "spec": pod_spec(launch, settings, environment),
    }
    if nodes == 1:
        return [_top_level("batch/v1", "Job", launch, settings, _job_spec(pod, settings))]
    if settings.multi_node == "JobSet":
        pod["spec"] = place_in_set(pod["spec"], name)
        spec = job_set(pod, name, nodes, settings.backoff_limit)
        return [_top_level("jobset.x-k8s.io/v1alpha2", "JobSet", launch, settings, spec)]
    pod["spec"] = place_in_job(pod["spec"], name)
    spec = indexed_job(_job_spec(pod, settings), nodes)
    job = _top_level("batch/v1", "Job", launch, settings, spec)
    return [job, headless_service(name, labels, {EXECUTION_LABEL: launch.name})]


def owned_by(owner: Manifest, manifest: Manifest) -> Manifest:
    """`manifest` so that Kubernetes deletes it together with `owner`: as the API returned that, with its uid."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return manifest | {"metadata": manifest["metadata"] | {"ownerReferences": [reference]}}


def _labels(launch: Launch, settings: KubernetesSettings) -> dict[str, str]:
    return {
        MANAGED_BY_LABEL: _MANAGED_BY,
        COMPONENT_LABEL: _COMPONENT,
        INSTANCE_LABEL: settings.instance,
        EXECUTION_LABEL: launch.name,
        JOB_LABEL: launch.job_id,
        PROJECT_LABEL: launch.project_id,
    }


def _top_level(
    api_version: str, kind: str, launch: Launch, settings: KubernetesSettings, spec: dict[str, Any]
) -> Manifest:
    """With what the service reads of it, Kueue's queue, and when Kubernetes removes it."""
    labels = settings.labels | _labels(launch, settings)
    if settings.queue_name:
        labels[QUEUE_NAME_LABEL] = settings.queue_name
        spec = spec | {"suspend": True}  # Kueue resumes it when there is quota
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": without_empty(
            {"name": object_name(launch.name), "labels": labels, "annotations": settings.annotations}
        ),
        "spec": spec | {"ttlSecondsAfterFinished": settings.ttl_seconds_after_finished},
    }


def _job_spec(pod: dict[str, Any], settings: KubernetesSettings) -> dict[str, Any]:
    """Kubernetes starts the trainer again by itself, so that an eviction is healed while the service is away.

    The first rule that fits decides. A user's error ends the Job; a trainer that was stopped and saved its state, and a
    pod that was taken away (eviction, preemption, a lost node), are replaced and not counted; anything else is a crash,
    counted up to `backoffLimit`.
    """
    return {
        "backoffLimit": settings.backoff_limit,
        "podReplacementPolicy": "Failed",  # never two trainers on one run: the next comes when the last is gone
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", **on_exit_code(ExitCode.USER_ERROR)},
                {"action": "Ignore", **on_exit_code(ExitCode.PREEMPTED)},
                {"action": "Ignore", **ON_DISRUPTION},
            ]
        },
        "template": pod,
    }
