"""What a cluster is asked to make: valid for every Kubernetes of today, with no more rights than a trainer needs."""

from typing import Any

import kubernetes_validate
import pytest

from service.executors.base import Launch
from service.executors.kubernetes_manifest import (
    Manifest,
    execution_of,
    execution_selector,
    instance_selector,
    manifests,
    object_name,
    owned_by,
)
from service.executors.kubernetes_settings import KubernetesSettings, KubernetesSettingsError
from tuning.resources import TrainingResources

VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
EXECUTION = "ftjob-AbCdEfGhIjKlMnOpQrStUvWx-1"
NAME = EXECUTION.lower()
ENVIRONMENT = {"AWS_ENDPOINT_URL_S3": "https://storage", "AWS_DEFAULT_REGION": "eu", "WANDB_MODE": "online"}

FULL: dict[str, Any] = {
    "imagePullSecrets": [{"name": "registry"}],
    "serviceAccountName": "trainer",
    "env": [{"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key"}}}],
    "envFrom": [{"secretRef": {"name": "storage"}}],
    "labels": {"team": "research"},
    "annotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"},
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100"]}]}]
            }
        }
    },
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    "priorityClassName": "batch",
    "runtimeClassName": "nvidia",
    "hostNetwork": True,
    "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "volumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
    "activeDeadlineSeconds": 3600,
    "resources": {"cpu": "2", "memory": "8Gi", "ephemeralStorage": "20Gi"},
}
PROFILES: dict[str, tuple[dict[str, Any], TrainingResources]] = {
    "cpu": ({}, TrainingResources()),
    "gpu": ({}, TrainingResources(gpus=4, cpu="16", memory="256Gi", ephemeral_storage="100Gi")),
    "cache": ({"modelCache": {"claimName": "models"}}, TrainingResources()),
    "kueue": ({"queueName": "training"}, TrainingResources()),
    "full": (FULL, TrainingResources(gpus=1)),
    "indexed": ({}, TrainingResources(gpus=8, nodes=2)),
    "indexed-kueue-full": (FULL | {"queueName": "training"}, TrainingResources(gpus=8, nodes=64)),
}


def launch(resources: TrainingResources | None = None) -> Launch:
    return Launch(
        name=EXECUTION,
        spec_uri="s3://bucket/jobs/x/attempts/1/spec.json",
        job_id=EXECUTION.removesuffix("-1"),
        project_id="proj_0123456789abcdefABCDEF01",
        base_model="tiny",
        attempt=1,
        resources=resources or TrainingResources(),
    )


def settings(**values: Any) -> KubernetesSettings:
    return KubernetesSettings.model_validate({"image": "registry/trainer:1"} | values)


def built(asked: TrainingResources | None = None, /, **values: Any) -> list[Manifest]:
    return manifests(launch(asked), settings(**values), ENVIRONMENT)


def pod_of(job: Manifest) -> dict[str, Any]:
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def container_of(job: Manifest) -> dict[str, Any]:
    [container] = pod_of(job)["containers"]
    assert isinstance(container, dict)
    return container


def variables_of(job: Manifest) -> dict[str, Any]:
    env = container_of(job)["env"]
    assert len({variable["name"] for variable in env}) == len(env)
    return {variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in env}


# --- valid ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_for_every_version(profile: str, version: str) -> None:
    values, resources = PROFILES[profile]
    for manifest in built(resources, **values):
        kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_in_a_job_set_is_valid_for_every_version(version: str) -> None:
    [job_set] = built(TrainingResources(gpus=8, nodes=2), multiNode="JobSet", **FULL)
    [replicated] = job_set["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "child"}, **replicated["template"]}
    kubernetes_validate.validate(job, version, strict=True)


def test_the_same_launch_is_always_the_same_manifest() -> None:
    assert built(**FULL) == built(**FULL)


# --- one node ---------------------------------------------------------------------------------------------------------


def test_a_trainer_has_no_rights() -> None:
    [job] = built()
    pod, container = pod_of(job), container_of(job)
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert "hostNetwork" not in pod
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_trainer_gets_its_spec_and_a_place_to_write() -> None:
    [job] = built(scratchSize="7Gi", shmSize="2Gi")
    container, variables = container_of(job), variables_of(job)
    assert container["args"] == ["s3://bucket/jobs/x/attempts/1/spec.json"]
    assert "command" not in container
    volumes = {volume["name"]: volume for volume in pod_of(job)["volumes"]}
    paths = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    assert paths["/tmp"]["emptyDir"] == {"sizeLimit": "7Gi"}
    assert paths["/dev/shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "2Gi"}
    for name in ("FETTLE_WORK_DIR", "HOME", "TMPDIR", "HF_HOME", "HF_DATASETS_CACHE"):
        assert str(variables[name]).startswith("/tmp")
    assert variables["FETTLE_CONTAINER_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert variables["AWS_ENDPOINT_URL_S3"] == "https://storage"
    assert "FETTLE_NODE_RANK" not in variables


def test_exit_codes_decide_what_is_started_again() -> None:
    [job] = built(backoffLimit=5)
    spec = job["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    assert [(rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in rules] == [
        ("FailJob", [64]),
        ("Ignore", [75]),
        ("Ignore", None),
    ]
    assert rules[2]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert all(rule["onExitCodes"]["containerName"] == container_of(job)["name"] for rule in rules[:2])
    assert spec["backoffLimit"] == 5
    assert spec["podReplacementPolicy"] == "Failed"
    assert pod_of(job)["restartPolicy"] == "Never"


def test_the_deadline_is_the_pods_so_that_waiting_does_not_count() -> None:
    [job] = built(activeDeadlineSeconds=60, ttlSecondsAfterFinished=5, terminationGracePeriodSeconds=9)
    assert pod_of(job)["activeDeadlineSeconds"] == 60
    assert "activeDeadlineSeconds" not in job["spec"]
    assert job["spec"]["ttlSecondsAfterFinished"] == 5
    assert pod_of(job)["terminationGracePeriodSeconds"] == 9
    [unlimited] = built()
    assert "activeDeadlineSeconds" not in pod_of(unlimited)


def test_what_the_job_asks_for_goes_before_the_defaults() -> None:
    [job] = built(
        TrainingResources(gpus=2, memory="64Gi"), gpuResource="amd.com/gpu", resources={"cpu": "4", "memory": "1Gi"}
    )
    assert container_of(job)["resources"] == {
        "requests": {"cpu": "4", "memory": "64Gi", "amd.com/gpu": "2"},
        "limits": {"memory": "64Gi", "amd.com/gpu": "2"},
    }
    [on_cpu] = built(resources={"cpu": "4", "memory": "1Gi", "ephemeralStorage": "5Gi"})
    assert container_of(on_cpu)["resources"] == {
        "requests": {"cpu": "4", "memory": "1Gi", "ephemeral-storage": "5Gi"},
        "limits": {"memory": "1Gi", "ephemeral-storage": "5Gi"},
    }


def test_a_model_cache_is_read_only_and_offline() -> None:
    [job] = built(modelCache={"claimName": "models", "mountPath": "/cache"})
    variables = variables_of(job)
    assert (variables["HF_HOME"], variables["HF_HUB_OFFLINE"]) == ("/cache", "1")
    assert str(variables["HF_DATASETS_CACHE"]).startswith("/tmp")
    [volume] = [volume for volume in pod_of(job)["volumes"] if "persistentVolumeClaim" in volume]
    assert volume["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    [mount] = [mount for mount in container_of(job)["volumeMounts"] if mount["name"] == volume["name"]]
    assert mount["mountPath"] == "/cache"
    assert mount["readOnly"] is True


def test_what_the_operator_adds_is_there() -> None:
    [job] = built(**FULL)
    pod = pod_of(job)
    keys = (
        *("imagePullSecrets", "serviceAccountName", "nodeSelector", "tolerations", "affinity"),
        *("topologySpreadConstraints", "priorityClassName", "runtimeClassName", "hostNetwork"),
    )
    for key in keys:
        assert pod[key] == FULL[key], key
    assert pod["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert container_of(job)["envFrom"] == FULL["envFrom"]
    assert FULL["env"][0] in container_of(job)["env"]
    assert FULL["volumes"][0] in pod["volumes"]
    assert FULL["volumeMounts"][0] in container_of(job)["volumeMounts"]
    for metadata in (job["metadata"], job["spec"]["template"]["metadata"]):
        assert metadata["labels"]["team"] == "research"
        assert metadata["annotations"] == FULL["annotations"]


def test_a_collision_of_variables_is_refused() -> None:
    with pytest.raises(KubernetesSettingsError, match="WANDB_MODE"):
        built(env=[{"name": "WANDB_MODE", "value": "offline"}])


def test_kueue_lets_the_job_in() -> None:
    [job] = built(queueName="training")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert job["spec"]["suspend"] is True
    [plain] = built()
    assert "suspend" not in plain["spec"]


# --- names and labels -------------------------------------------------------------------------------------------------


def test_objects_are_found_by_their_labels() -> None:
    [job] = built(instance="blue")
    assert job["metadata"]["name"] == object_name(EXECUTION) == NAME
    selector = dict(pair.split("=") for pair in execution_selector(EXECUTION, settings(instance="blue")).split(","))
    of_instance = dict(pair.split("=") for pair in instance_selector(settings(instance="blue")).split(","))
    for labels in (job["metadata"]["labels"], job["spec"]["template"]["metadata"]["labels"]):
        assert selector.items() <= labels.items()
        assert of_instance.items() <= labels.items()
        assert labels["fettle.dev/job"] == EXECUTION.removesuffix("-1")
        assert labels["fettle.dev/project"] == "proj_0123456789abcdefABCDEF01"
        assert all(len(value) <= 63 for value in labels.values())
    assert selector["app.kubernetes.io/instance"] == "blue"
    assert selector["fettle.dev/execution"] == EXECUTION


def test_only_our_objects_belong_to_an_execution() -> None:
    [job] = built()
    assert execution_of(job) == EXECUTION
    assert execution_of({"metadata": {"name": "other"}}) is None
    assert execution_of({"metadata": {"name": "other", "labels": {"fettle.dev/execution": "x"}}}) is None


# --- several nodes ----------------------------------------------------------------------------------------------------


def test_an_indexed_job_has_a_pod_for_each_node() -> None:
    job, service = built(TrainingResources(gpus=8, nodes=4), backoffLimit=3)
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    # each index counts its own restarts, and the first that has no more ends them all
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (3, 0)
    assert "backoffLimit" not in spec
    assert container_of(job)["resources"]["limits"]["nvidia.com/gpu"] == "8"
    variables = variables_of(job)
    rank = variables["FETTLE_NODE_RANK"]
    assert rank == {"fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}
    assert variables["FETTLE_MASTER_ADDR"] == f"{NAME}-0.{NAME}"
    assert variables["FETTLE_MASTER_PORT"] == "29500"
    assert pod_of(job)["subdomain"] == service["metadata"]["name"] == NAME
    assert len(f"{NAME}-63") <= 63  # a pod's host name


def test_the_service_finds_pods_that_are_not_ready() -> None:
    job, service = built(TrainingResources(nodes=2))
    spec = service["spec"]
    assert spec["clusterIP"] == "None"
    assert spec["publishNotReadyAddresses"] is True
    assert spec["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert execution_of(service) == EXECUTION


def test_the_service_goes_with_its_job() -> None:
    job, service = built(TrainingResources(nodes=2))
    created = job | {"metadata": job["metadata"] | {"uid": "uid-1"}}
    owned = owned_by(created, service)
    assert owned["metadata"]["ownerReferences"] == [
        {"apiVersion": "batch/v1", "kind": "Job", "name": NAME, "uid": "uid-1"}
    ]
    assert "ownerReferences" not in service["metadata"]
    kubernetes_validate.validate(owned, VERSIONS[0], strict=True)


def test_a_job_set_restarts_as_a_whole() -> None:
    [job_set] = built(TrainingResources(nodes=4), multiNode="JobSet", backoffLimit=3, queueName="training")
    assert (job_set["apiVersion"], job_set["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    spec = job_set["spec"]
    assert spec["suspend"] is True
    assert job_set["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    assert spec["ttlSecondsAfterFinished"] == settings().ttl_seconds_after_finished
    assert spec["failurePolicy"]["maxRestarts"] == 3
    [replicated] = spec["replicatedJobs"]
    child = replicated["template"]["spec"]
    assert (child["completions"], child["parallelism"], child["backoffLimit"]) == (4, 4, 0)
    assert "suspend" not in child
    # each rule of the Job fails it, and the JobSet's rule for that number tells what then
    actions = []
    for number, rule in enumerate(child["podFailurePolicy"]["rules"]):
        assert rule["action"] == "FailJob"
        [of_set] = [
            found
            for found in spec["failurePolicy"]["rules"]
            if found["onJobFailureMessagePatterns"] == [f"matching FailJob rule at index {number}$"]
        ]
        codes = rule.get("onExitCodes", {}).get("values")
        actions.append((codes, of_set["action"]))
    assert actions == [
        ([64], "FailJobSet"),
        ([75], "RestartJobSetAndIgnoreMaxRestarts"),
        (None, "RestartJobSetAndIgnoreMaxRestarts"),
    ]


def test_pods_of_a_job_set_find_the_first_one() -> None:
    [job_set] = built(TrainingResources(nodes=4), multiNode="JobSet")
    [replicated] = job_set["spec"]["replicatedJobs"]
    variables = variables_of(replicated["template"])
    subdomain = job_set["spec"]["network"]["subdomain"]
    assert variables["FETTLE_MASTER_ADDR"] == f"{NAME}-{replicated['name']}-0-0.{subdomain}"
    labels = replicated["template"]["spec"]["template"]["metadata"]["labels"]
    assert labels["fettle.dev/execution"] == EXECUTION
    assert "labels" not in replicated["template"].get("metadata", {})  # its Job is not one that we follow


def test_one_node_needs_no_job_set() -> None:
    [job] = built(TrainingResources(gpus=8), multiNode="JobSet")
    assert job["kind"] == "Job"
