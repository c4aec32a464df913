"""What the chart's objects say: to the service, which reads its files with the same code, and to Kubernetes."""

import re
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.fixtures.chart import (
    FROM_THE_HUB,
    TINY,
    Manifest,
    environment_of,
    find,
    load_training,
    of_kind,
    pod_of,
    pods,
    render,
    values,
)
from tests.fixtures.chart_everything import EVERYTHING
from tuning.catalogue import Catalogue


def test_two_replicas_each_that_are_never_all_away() -> None:
    manifests = render(values())
    for name in ("fettle-api", "fettle-dispatcher"):
        spec = find(manifests, "Deployment", name)["spec"]
        assert spec["replicas"] == 2
        assert spec["strategy"] == {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
        assert find(manifests, "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1
        spread = pod_of(find(manifests, "Deployment", name))["topologySpreadConstraints"]
        assert [each["topologyKey"] for each in spread] == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]


def test_autoscaling_owns_the_number_of_replicas() -> None:
    manifests = render(values(autoscaling={"enabled": True}))
    assert "replicas" not in find(manifests, "Deployment", "fettle-api")["spec"]
    assert find(manifests, "HorizontalPodAutoscaler", "fettle-api")["spec"]["minReplicas"] == 2


@pytest.mark.parametrize("given", [values(), values(**EVERYTHING)], ids=["least", "everything"])
def test_every_pod_is_locked_down(given: dict[str, Any]) -> None:
    for manifest in pods(render(given)):
        pod = pod_of(manifest)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        is_dispatcher = manifest["metadata"]["name"].endswith("-dispatcher")
        assert pod["automountServiceAccountToken"] is is_dispatcher
        # A Service called fettle would set FETTLE_PORT, and an unknown FETTLE_* variable refuses to start.
        assert pod["enableServiceLinks"] is False
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"] and container["resources"]["limits"]["memory"]


def test_service_accounts_give_no_token_by_themselves() -> None:
    accounts = of_kind(render(values()), "ServiceAccount")
    assert {account["metadata"]["name"] for account in accounts} == {
        f"fettle-{who}" for who in ("api", "dispatcher", "serving", "training")
    }
    assert all(account["automountServiceAccountToken"] is False for account in accounts)


def test_pods_end_within_their_grace() -> None:
    manifests = render(values(api={"drainSeconds": 60}))
    api = pod_of(find(manifests, "Deployment", "fettle-api"))
    assert api["containers"][0]["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "60"]
    assert api["terminationGracePeriodSeconds"] >= 60 + 10 + 5  # the drain of `fettle serve`, and some air


def test_the_service_understands_its_files_and_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    manifests = render(values(**EVERYTHING))
    for name, role in (("fettle-api", "api"), ("fettle-dispatcher", "dispatcher")):
        environment = environment_of(find(manifests, "Deployment", name))
        ours = {name: value for name, value in environment.items() if name.startswith("FETTLE_")}
        assert {name.removeprefix("FETTLE_").lower() for name in ours} <= set(Settings.model_fields)
        for variable, value in ours.items():
            monkeypatch.setenv(variable, value if isinstance(value, str) else "from-a-secret")
        settings = Settings()
        assert (settings.role, settings.migrations, settings.executor) == (role, "checked", "kubernetes")
        assert settings.refusal_to_serve() is None
        assert settings.ops_port == 8001
        assert settings.max_file_bytes == 512_000_000
        assert settings.serving_wait.total_seconds() == 30
        assert settings.vllm_urls == {
            "qwen3-0.6b": "http://fettle-vllm-qwen3-0-6b.ml.svc:8000",
            "fettle-tiny": "http://fettle-vllm-fettle-tiny.ml.svc:8000",
        }
        for variable in ours:
            monkeypatch.delenv(variable)

    training = load_training(manifests, tmp_path)
    assert (training.instance, training.namespace, training.queue_name) == ("fettle.ml", "gpus", "fettle")
    assert training.image == "registry.example.com/fettle/trainer:0.1.0"
    assert training.model_cache is not None and training.model_cache.claim_name == "models"
    names = {variable["name"] for variable in training.env}
    assert names == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "NCCL_DEBUG"}

    data = find(manifests, "ConfigMap", "fettle-catalogue")["data"]
    for file, text in data.items():
        (tmp_path / file).write_text(text)
    catalogue = Catalogue.load(tmp_path / "models.yaml")
    assert [entry.name for entry in catalogue.models] == ["qwen3-0.6b", "fettle-tiny"]
    assert catalogue.models[0].template == EVERYTHING["chatTemplates"]["own.jinja"]
    assert catalogue.models[0].learning_rate == 5.3e-4


def test_the_smallest_values_make_files_that_the_service_understands(tmp_path: Path) -> None:
    manifests = render(values(serving={"defaults": {"enabled": False}}))
    assert load_training(manifests, tmp_path).model_cache is None
    environment = environment_of(find(manifests, "Deployment", "fettle-api"))
    assert environment["FETTLE_SERVING"] == "off"
    assert not {"FETTLE_VLLM_URLS", "FETTLE_VLLM_API_KEY"} & environment.keys()
    names = {manifest["metadata"]["name"] for manifest in manifests}
    assert not {name for name in names if "vllm" in name or "models" in name} - {"fettle-vllm"}  # a policy for nobody


def test_vllm_gets_what_the_serving_image_wants() -> None:
    given = values(models=[{**FROM_THE_HUB, "serving": {"gpus": 2}}, {**TINY, "serving": {"gpus": 0}}])
    manifests = render(given)
    gpu, cpu = (find(manifests, "Deployment", f"fettle-vllm-{name}") for name in ("qwen3-0-6b", "fettle-tiny"))
    environment = environment_of(gpu)
    assert environment["FETTLE_BASE_MODEL"] == "qwen3-0.6b"
    assert environment["FETTLE_ADAPTERS_URI"] == "s3://bucket/prefix/adapters"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["VLLM_API_KEY"] == {"secretKeyRef": {"name": "fettle-vllm", "key": "api-key"}}
    [container] = pod_of(gpu)["containers"]
    assert container["args"] == ["--tensor-parallel-size=2"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 1800
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/models"]["readOnly"] is True
    adapters = mounts[environment["FETTLE_ADAPTER_CACHE_DIR"]]["name"]
    volumes = {volume["name"]: volume for volume in pod_of(gpu)["volumes"]}
    assert volumes[adapters] == {"name": adapters, "emptyDir": {"sizeLimit": "20Gi"}}
    assert "nvidia.com/gpu" not in pod_of(cpu)["containers"][0]["resources"]["limits"]


def test_a_change_of_one_model_rolls_that_vllm_alone() -> None:
    def checksums(manifests: list[Manifest]) -> dict[str, Any]:
        return {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"]["annotations"]
            for each in of_kind(manifests, "Deployment")
        }

    before = checksums(render(values(models=[TINY, FROM_THE_HUB])))
    after = checksums(render(values(models=[{**TINY, "context_length": 512}, FROM_THE_HUB])))
    assert {name for name in before if before[name] != after[name]} == {
        "fettle-api",
        "fettle-dispatcher",
        "fettle-vllm-fettle-tiny",
    }
    rate = checksums(render(values(models=[{**TINY, "learning_rate": 1.0}, FROM_THE_HUB])))
    assert {name for name in before if before[name] != rate[name]} == {"fettle-api", "fettle-dispatcher"}
    training = checksums(render(values(models=[TINY, FROM_THE_HUB], training={"backoffLimit": 5})))
    assert {name for name in before if before[name] != training[name]} == {"fettle-api", "fettle-dispatcher"}


def test_selectors_are_the_same_whatever_the_values_are() -> None:
    """They are immutable: an upgrade that changes one fails."""

    def selectors(given: dict[str, Any]) -> dict[str, Any]:
        return {each["metadata"]["name"]: each["spec"]["selector"] for each in of_kind(render(given), "Deployment")}

    least, most = (
        selectors(values(models=EVERYTHING["models"], chatTemplates=EVERYTHING["chatTemplates"])),
        selectors(values(**EVERYTHING)),
    )
    assert least == most
    common = {"app.kubernetes.io/name": "fettle", "app.kubernetes.io/instance": "fettle"}
    assert most["fettle-api"] == {"matchLabels": {**common, "app.kubernetes.io/component": "api"}}


def test_services_find_the_pods_they_mean() -> None:
    manifests = render(values())
    labels = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in of_kind(manifests, "Deployment")
    }

    def found(service: str) -> set[str]:
        selector = find(manifests, "Service", service)["spec"]["selector"].items()
        return {name for name, given in labels.items() if selector <= given.items()}

    assert found("fettle-api") == {"fettle-api"}
    assert found("fettle-ops") == {"fettle-api", "fettle-dispatcher"}
    assert found("fettle-vllm-fettle-tiny") == {"fettle-vllm-fettle-tiny"}


@pytest.mark.parametrize("given", [values(), values(**EVERYTHING)], ids=["least", "everything"])
def test_the_hook_needs_nothing_that_the_chart_makes(given: dict[str, Any]) -> None:
    """It runs before everything else: on the first installation nothing of the chart is there."""
    manifests = render(given)
    [hook] = [each for each in manifests if "pre-install" in annotations(each).get("helm.sh/hook", "")]
    assert (hook["kind"], annotations(hook)["helm.sh/hook"]) == ("Job", "pre-install,pre-upgrade")
    made = {each["metadata"]["name"] for each in manifests if each is not hook}
    assert references(hook["spec"]) & made == set()
    assert pod_of(hook)["containers"][0]["args"] == ["migrate"]
    assert "serviceAccountName" not in pod_of(hook)


def test_the_models_are_fetched_again_when_they_change_and_only_then() -> None:
    def job(given: dict[str, Any]) -> str:
        [name] = [
            each["metadata"]["name"] for each in of_kind(render(given), "Job") if "-models-" in each["metadata"]["name"]
        ]
        return str(name)

    first = job(values(models=[FROM_THE_HUB]))
    assert first == job(values(models=[FROM_THE_HUB], api={"replicas": 5}))
    assert first != job(values(models=[{**FROM_THE_HUB, "revision": "0" * 40}]))


def test_secrets_are_only_ever_referred_to() -> None:
    secrets = of_kind(render(values(**EVERYTHING)), "Secret")
    assert [secret["metadata"]["name"] for secret in secrets] == ["fettle-vllm"]  # made by Helm, where none is named
    assert of_kind(render(values(serving={"apiKey": {"existingSecret": "mine"}})), "Secret") == []
    for manifest in pods(render(values(**EVERYTHING))):
        for name, value in environment_of(manifest).items():
            if re.search(r"KEY|SECRET|TOKEN|PASSWORD|DATABASE_URL", name) and name != "AWS_ACCESS_KEY_ID":
                assert isinstance(value, dict) and "secretKeyRef" in value, name


def test_who_downloads_models_gets_the_hub_token_and_nobody_else() -> None:
    def with_token(**more: Any) -> set[str]:
        given = values(models=[FROM_THE_HUB], huggingFace={"existingSecret": "hub"}, **more)
        manifests = render(given)
        return {
            re.sub(r"-[0-9a-f]{8}$", "", each["metadata"]["name"])
            for each in pods(manifests)
            if "HF_TOKEN" in environment_of(each)
        }

    assert with_token() == {"fettle-models"}
    assert with_token(modelCache={"enabled": False}) == {"fettle-dispatcher", "fettle-vllm-qwen3-0-6b"}


def test_the_dispatchers_role_is_exactly_this() -> None:
    def rules(**more: Any) -> dict[str, set[str]]:
        role = find(render(values(**more)), "Role", "fettle-training")
        return {
            f"{group}/{resource}": set(rule["verbs"])
            for rule in role["rules"]
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }

    least = {
        "batch/jobs": {"create", "get", "list", "watch", "delete"},
        "/pods": {"get", "list", "watch", "delete"},
        "/pods/log": {"get"},
        "/events": {"get", "list", "watch"},
    }
    assert rules() == least
    assert rules(multiNode={"enabled": True}) == {**least, "/services": {"create", "get"}}
    job_sets = {"jobset.x-k8s.io/jobsets": {"create", "get", "list", "watch", "delete"}}
    assert rules(multiNode={"enabled": True}, training={"multiNode": "JobSet"}) == {**least, **job_sets}
    assert of_kind(render(values()), "ClusterRole") == []
    [cluster_role] = of_kind(render(values(training={"canReadNodes": True})), "ClusterRole")
    assert cluster_role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]


def annotations(manifest: Manifest) -> dict[str, str]:
    return manifest["metadata"].get("annotations", {})


def references(part: Any) -> set[str]:
    """Names of the objects that a pod needs."""
    if isinstance(part, list):
        return {name for each in part for name in references(each)}
    if not isinstance(part, dict):
        return set()
    found = {part[key] for key in ("serviceAccountName", "claimName", "secretName") if key in part}
    for key in ("secretKeyRef", "configMapKeyRef", "secretRef", "configMapRef", "configMap"):
        if key in part:
            found.add(part[key]["name"])
    return found.union(*(references(each) for each in part.values()))
