"""The pod of a trainer: one container from the trainer image, with no more rights than it needs."""

from collections.abc import Mapping
from typing import Any

from service.executors.base import Launch
from service.executors.kubernetes_settings import (
    MODEL_CACHE_VOLUME,
    SCRATCH_PATH,
    SCRATCH_VOLUME,
    SHM_PATH,
    SHM_VOLUME,
    KubernetesSettings,
)
from tuning.contract import ExitCode

CONTAINER_NAME = "trainer"
"""Of the only container of a training pod."""

ON_DISRUPTION = {"onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
"""A rule of a Job's `podFailurePolicy`: the pod was taken away (eviction, preemption, a lost node)."""

PodPart = dict[str, Any]


def pod_spec(launch: Launch, settings: KubernetesSettings, environment: Mapping[str, str]) -> PodPart:
    """`environment`: of the container, beside what the settings say."""
    return without_empty(
        {
            "restartPolicy": "Never",  # the Job starts it again, elsewhere if need be, and counts
            "terminationGracePeriodSeconds": settings.termination_grace_period_seconds,
            "activeDeadlineSeconds": settings.active_deadline_seconds,
            "automountServiceAccountToken": False,
            "serviceAccountName": settings.service_account_name,
            "enableServiceLinks": False,
            "hostNetwork": settings.host_network or None,
            # else a pod in the node's network asks the node's name server, which knows no Services
            "dnsPolicy": "ClusterFirstWithHostNet" if settings.host_network else None,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": settings.run_as_user,
                "runAsGroup": settings.run_as_group,
                "fsGroup": settings.fs_group,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "imagePullSecrets": settings.image_pull_secrets,
            "nodeSelector": settings.node_selector,
            "tolerations": settings.tolerations,
            "affinity": settings.affinity,
            "topologySpreadConstraints": settings.topology_spread_constraints,
            "priorityClassName": settings.priority_class_name,
            "runtimeClassName": settings.runtime_class_name,
            "containers": [_container(launch, settings, environment)],
            "volumes": _volumes(settings),
        }
    )


def without_empty(part: PodPart) -> PodPart:
    return {key: value for key, value in part.items() if value is not None and value not in ({}, [])}


def on_exit_code(code: ExitCode) -> PodPart:
    """A rule of a Job's `podFailurePolicy`, without its action."""
    return {"onExitCodes": {"containerName": CONTAINER_NAME, "operator": "In", "values": [int(code)]}}


def _container(launch: Launch, settings: KubernetesSettings, environment: Mapping[str, str]) -> PodPart:
    return without_empty(
        {
            "name": CONTAINER_NAME,
            "image": settings.image,
            "imagePullPolicy": settings.image_pull_policy,
            "args": [launch.spec_uri],
            "env": _env(settings, environment),
            "envFrom": settings.env_from,
            "resources": _resources(launch, settings),
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "terminationMessagePolicy": "FallbackToLogsOnError",  # `kubectl describe pod` shows a crash then
            "volumeMounts": _volume_mounts(settings),
        }
    )


def _env(settings: KubernetesSettings, environment: Mapping[str, str]) -> list[PodPart]:
    variables = {
        "FETTLE_WORK_DIR": SCRATCH_PATH,
        "HOME": SCRATCH_PATH,
        "TMPDIR": SCRATCH_PATH,
        "USER": "fettle",  # libraries ask for a name, and the user id may have none in the image
        # what Hugging Face's libraries write, wherever the models are
        "HF_DATASETS_CACHE": f"{SCRATCH_PATH}/huggingface/datasets",
        "HF_MODULES_CACHE": f"{SCRATCH_PATH}/huggingface/modules",
        "HF_HOME": settings.model_cache.mount_path if settings.model_cache else f"{SCRATCH_PATH}/huggingface",
    }
    if settings.model_cache:
        variables["HF_HUB_OFFLINE"] = "1"
    return [
        {"name": "FETTLE_CONTAINER_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        *({"name": name, "value": value} for name, value in (variables | dict(environment)).items()),
        *settings.env,
    ]


def _resources(launch: Launch, settings: KubernetesSettings) -> PodPart:
    """What is limited is requested whole: memory and disk cannot be taken back, so nobody is promised another's."""
    asked, defaults = launch.resources, settings.resources
    limits = without_empty(
        {
            "memory": asked.memory or defaults.memory,
            "ephemeral-storage": asked.ephemeral_storage or defaults.ephemeral_storage,
            settings.gpu_resource: str(asked.gpus) if asked.gpus else None,
        }
    )
    requests = without_empty({"cpu": asked.cpu or defaults.cpu, **limits})
    return without_empty({"requests": requests, "limits": limits})


def _volumes(settings: KubernetesSettings) -> list[PodPart]:
    volumes: list[PodPart] = [
        {"name": SCRATCH_VOLUME, "emptyDir": {"sizeLimit": settings.scratch_size}},
        {"name": SHM_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": settings.shm_size}},
    ]
    if settings.model_cache:
        claim = {"claimName": settings.model_cache.claim_name, "readOnly": True}
        volumes.append({"name": MODEL_CACHE_VOLUME, "persistentVolumeClaim": claim})
    return volumes + settings.volumes


def _volume_mounts(settings: KubernetesSettings) -> list[PodPart]:
    mounts: list[PodPart] = [
        {"name": SCRATCH_VOLUME, "mountPath": SCRATCH_PATH},
        {"name": SHM_VOLUME, "mountPath": SHM_PATH},
    ]
    if settings.model_cache:
        mounts.append({"name": MODEL_CACHE_VOLUME, "mountPath": settings.model_cache.mount_path, "readOnly": True})
    return mounts + settings.volume_mounts
