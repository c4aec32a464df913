"""What training pods are made of: the operator's YAML file for `FETTLE_EXECUTOR=kubernetes`, checked at start.

What belongs to Kubernetes (tolerations, affinity, volumes, …) is written as in a pod and handed on as it is.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from tuning.resources import Quantity

SCRATCH_PATH = "/tmp"
"""The only place, beside `/dev/shm`, where a trainer may write."""
SCRATCH_VOLUME = "scratch"
SHM_VOLUME = "shm"
SHM_PATH = "/dev/shm"
MODEL_CACHE_VOLUME = "model-cache"
QUEUE_NAME_LABEL = "kueue.x-k8s.io/queue-name"

_OUR_VOLUMES = (SCRATCH_VOLUME, SHM_VOLUME, MODEL_CACHE_VOLUME)
_OUR_PATHS = (SCRATCH_PATH, SHM_PATH)
_OUR_VARIABLES = ("HOME", "USER", "TMPDIR", "HF_HOME", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE")
_OUR_VARIABLE_PREFIX = "FETTLE_"
_OUR_LABELS = ("app.kubernetes.io/managed-by", "app.kubernetes.io/component", "app.kubernetes.io/instance", "job-name")
_OUR_LABEL_PREFIXES = ("fettle.dev/", "batch.kubernetes.io/", "jobset.sigs.k8s.io/", "controller-uid")

_LABEL_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"^([a-z0-9]([a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_LABEL_NAME}$")
_LABEL_VALUE = re.compile(rf"^({_LABEL_NAME})?$")

_DAY_SECONDS = 24 * 60 * 60

KubernetesObject = dict[str, Any]
"""A part of a pod, as Kubernetes' documentation has it."""
DnsLabel = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
ObjectName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
LabelValue = Annotated[str, StringConstraints(pattern=_LABEL_VALUE.pattern, min_length=1)]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/[^:\s]+$")]


class KubernetesSettingsError(Exception):
    """The settings for training pods cannot be used; the message names the file, the key and the reason."""


def _refuse_our_labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if key == QUEUE_NAME_LABEL:
            raise ValueError(f"{key} is set by queueName; name the queue there")
        if key in _OUR_LABELS or key.startswith(_OUR_LABEL_PREFIXES):
            raise ValueError(f"{key} is reserved: Fettle or Kubernetes sets it; choose another key")
        if not _LABEL_KEY.match(key) or not _LABEL_VALUE.match(value):
            raise ValueError(f"{key}: {value} is not a Kubernetes label (63 letters, digits, '-', '_' and '.' at most)")
    return labels


def _refuse_our_annotations(annotations: dict[str, str]) -> dict[str, str]:
    for key in annotations:
        if key.startswith(_OUR_LABEL_PREFIXES):
            raise ValueError(f"{key} is reserved: Fettle or Kubernetes sets it; choose another key")
    return annotations


def _refuse_our_variables(variables: list[KubernetesObject]) -> list[KubernetesObject]:
    names = [_name_of(variable, "a variable") for variable in variables]
    _refuse_duplicates(names)
    for name in names:
        if name in _OUR_VARIABLES or name.startswith(_OUR_VARIABLE_PREFIX):
            raise ValueError(f"{name} is reserved: Fettle sets it; take it out")
    return variables


def _refuse_our_volumes(volumes: list[KubernetesObject]) -> list[KubernetesObject]:
    names = [_name_of(volume, "a volume") for volume in volumes]
    _refuse_duplicates(names)
    if ours := sorted({*names} & {*_OUR_VOLUMES}):
        raise ValueError(f"the volume name {ours[0]} is reserved; choose another")
    return volumes


def _refuse_our_paths(mounts: list[KubernetesObject]) -> list[KubernetesObject]:
    for mount in mounts:
        _name_of(mount, "a volumeMount")
        path = mount.get("mountPath")
        if not isinstance(path, str) or not path.startswith("/"):
            raise ValueError(f"{mount['name']}: mountPath must be an absolute path")
        if path.rstrip("/") in _OUR_PATHS:
            raise ValueError(f"{path} is reserved: Fettle mounts a volume of its own there; choose another mountPath")
    _refuse_duplicates([mount["mountPath"] for mount in mounts])
    return mounts


def _name_of(part: KubernetesObject, what: str) -> str:
    name = part.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what} needs a name")
    return name


def _refuse_duplicates(names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} is there more than once")


class _Settings(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_by_alias=True, validate_by_name=False
    )


class ResourceDefaults(_Settings):
    """What a training pod gets when neither its model's catalogue entry nor its job says."""

    cpu: Quantity | None = "1"
    """Requested, not limited: idle CPUs of the node help."""
    memory: Quantity | None = "4Gi"
    """Requested and limited."""
    ephemeral_storage: Quantity | None = None
    """Requested and limited: local disk for logs and scratch together."""


class ModelCache(_Settings):
    """A volume with the base models, filled before by `fettle models fetch`; training pods read it and go nowhere else
    for models."""

    claim_name: ObjectName
    """Of a PersistentVolumeClaim in the trainers' namespace that many nodes can read: ReadOnlyMany or ReadWriteMany."""
    mount_path: AbsolutePath = "/models"


class KubernetesSettings(_Settings):
    instance: LabelValue = "fettle"
    """Tells the objects of this installation from those of another one in the same namespace."""
    namespace: DnsLabel | None = None
    """Where trainers run. Default: the namespace of the service's own pod."""

    # the image
    image: str = Field(min_length=1)
    """Of the trainer (`trainer_image/Dockerfile`)."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: list[KubernetesObject] = []
    """`[{name: …}]`: Secrets of the namespace that a private registry needs."""

    # what it may do, and with which credentials
    service_account_name: ObjectName | None = None
    """Default: the namespace's own. No token of it is mounted, but cloud providers tie storage roles to its name."""
    env: Annotated[list[KubernetesObject], AfterValidator(_refuse_our_variables)] = []
    """Further variables of the trainer, as in a container; secrets by `valueFrom.secretKeyRef`."""
    env_from: list[KubernetesObject] = []
    """Secrets and ConfigMaps whose keys become variables, such as the storage's credentials. Ours and `env` win."""
    run_as_user: int = Field(10001, ge=1)
    run_as_group: int = Field(10001, ge=1)
    fs_group: int = Field(10001, ge=1)
    host_network: bool = False
    """Only for networks that pods cannot reach otherwise (RDMA, a cluster without a pod network)."""

    # where it runs
    labels: Annotated[dict[str, str], AfterValidator(_refuse_our_labels)] = {}
    """Added to Jobs and their pods."""
    annotations: Annotated[dict[str, str], AfterValidator(_refuse_our_annotations)] = {}
    """Added to Jobs and their pods."""
    node_selector: dict[str, str] = {}
    tolerations: list[KubernetesObject] = []
    affinity: KubernetesObject = {}
    topology_spread_constraints: list[KubernetesObject] = []
    priority_class_name: ObjectName | None = None
    runtime_class_name: ObjectName | None = None
    queue_name: LabelValue | None = None
    """Of a LocalQueue of Kueue: Jobs start suspended and Kueue lets them in."""
    multi_node: Literal["IndexedJob", "JobSet"] = "IndexedJob"
    """What a job on several nodes is made of. `JobSet` restarts all nodes together, and must be installed."""

    # what it gets
    gpu_resource: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$")] = "nvidia.com/gpu"
    """The name under which nodes offer GPUs."""
    resources: ResourceDefaults = ResourceDefaults()
    model_cache: ModelCache | None = None
    """Default: the base model comes with the image, or every pod fetches it from Hugging Face."""
    volumes: Annotated[list[KubernetesObject], AfterValidator(_refuse_our_volumes)] = []
    """Further volumes, as in a pod."""
    volume_mounts: Annotated[list[KubernetesObject], AfterValidator(_refuse_our_paths)] = []
    """Further mounts of the trainer, as in a container."""
    scratch_size: Quantity = "50Gi"
    """The most that a trainer may write to `/tmp`: its copy of the data, states, adapters, and the base model where
    there is no `modelCache`. Nothing is reserved; `resources.ephemeralStorage` does that."""
    shm_size: Quantity = "1Gi"
    """The most that a trainer may write to `/dev/shm`, through which GPUs of one node talk. Counts as memory."""

    # how long, and how often
    termination_grace_period_seconds: int = Field(600, ge=1)
    """Between SIGTERM and SIGKILL when Kubernetes takes a pod away: a step and the saving of a state must fit in."""
    active_deadline_seconds: int | None = Field(None, ge=1)
    """The longest that one pod may run before its job fails. Waiting for a place does not count."""
    backoff_limit: int = Field(2, ge=0)
    """How often Kubernetes starts a crashed trainer again. Evictions do not count."""
    ttl_seconds_after_finished: int = Field(7 * _DAY_SECONDS, ge=0)
    """When Kubernetes removes an ended Job that the service did not: the service removes it once it has read it all."""

    can_read_nodes: bool = False
    """The service may list nodes (a ClusterRole): then it can say when no node is large enough for a job."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises KubernetesSettingsError."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise KubernetesSettingsError(f"{path} cannot be read: {error}") from error
        if not isinstance(content, dict):
            raise KubernetesSettingsError(f"{path}: no keys are in it; `image` at least is needed")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise KubernetesSettingsError(f"{path}: {_in_words(error)}") from error

    def refuse_collisions(self, environment: Iterable[str]) -> None:
        """With variables that the service sets from its own settings. Raises KubernetesSettingsError."""
        if ours := sorted({*environment} & {variable["name"] for variable in self.env}):
            raise KubernetesSettingsError(
                f"env: {ours[0]} is set by the service from its own settings (FETTLE_*); take it out of one of the two"
            )

    @model_validator(mode="after")
    def _refuse_mounts_of_nothing(self) -> Self:
        volumes = {volume["name"] for volume in self.volumes}
        for mount in self.volume_mounts:
            if mount["name"] not in volumes:
                raise ValueError(f"volumeMounts: there is no volume {mount['name']}; add it to volumes")
        if self.model_cache is not None:
            paths = [*_OUR_PATHS, *(mount["mountPath"].rstrip("/") for mount in self.volume_mounts)]
            if self.model_cache.mount_path.rstrip("/") in paths:
                raise ValueError(f"modelCache.mountPath: {self.model_cache.mount_path} is taken; choose another")
        return self


def _in_words(error: ValidationError) -> str:
    return "; ".join(_finding(details) for details in error.errors(include_url=False, include_input=False))


def _finding(details: ErrorDetails) -> str:
    key = ".".join(str(part) for part in details["loc"])
    match details["type"]:
        case "extra_forbidden":
            close = difflib.get_close_matches(str(details["loc"][-1]), _KNOWN_KEYS, n=1)
            reason = f"is not a setting{f' (did you mean {close[0]}?)' if close else ''}"
        case "missing":
            reason = "is missing"
        case _:
            reason = details["msg"].removeprefix("Value error, ")
    return f"{key}: {reason}" if key else reason


_KNOWN_KEYS = [
    to_camel(name) for model in (KubernetesSettings, ResourceDefaults, ModelCache) for name in model.model_fields
]
