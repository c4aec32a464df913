"""The operator's file for training pods: what is read, and what is refused with its key and the reason."""

from pathlib import Path

import pytest

from service.executors.kubernetes_settings import KubernetesSettings, KubernetesSettingsError


def load(folder: Path, text: str) -> KubernetesSettings:
    path = folder / "training.yaml"
    path.write_text(text)
    return KubernetesSettings.load(path)


def test_an_image_is_all_that_must_be_said(tmp_path: Path) -> None:
    settings = load(tmp_path, "image: registry/trainer:1\n")
    assert settings.instance == "fettle"
    assert settings.namespace is None
    assert (settings.run_as_user, settings.run_as_group, settings.fs_group) == (10001, 10001, 10001)
    assert settings.gpu_resource == "nvidia.com/gpu"
    assert settings.multi_node == "IndexedJob"
    assert not settings.can_read_nodes


def test_keys_are_written_as_in_kubernetes(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        image: trainer
        imagePullSecrets: [{name: registry}]
        envFrom: [{secretRef: {name: storage}}]
        env: [{name: WANDB_API_KEY, valueFrom: {secretKeyRef: {name: wandb, key: key}}}]
        nodeSelector: {disk: fast}
        tolerations: [{key: nvidia.com/gpu, operator: Exists}]
        resources: {cpu: 500m, memory: 2Gi, ephemeralStorage: 10Gi}
        modelCache: {claimName: models}
        volumes: [{name: certificates, configMap: {name: ca}}]
        volumeMounts: [{name: certificates, mountPath: /etc/ssl/private-ca}]
        terminationGracePeriodSeconds: 120
        canReadNodes: true
        """,
    )
    assert settings.image_pull_secrets == [{"name": "registry"}]
    assert settings.tolerations == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert settings.resources.ephemeral_storage == "10Gi"
    assert settings.model_cache is not None
    assert settings.model_cache.mount_path == "/models"
    assert settings.termination_grace_period_seconds == 120
    assert settings.can_read_nodes


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("namespace: a", "image", "is missing"),
        ("image: a\ngpuResources: b/c", "gpuResources", "did you mean gpuResource?"),
        ("image: a\nresources: {ram: 1Gi}", "resources.ram", "is not a setting"),
        ("image: a\nnode_selector: {}", "node_selector", "did you mean nodeSelector?"),
        ("image: a\nscratchSize: lots", "scratchSize", "pattern"),
        ("image: a\nrunAsUser: 0", "runAsUser", "greater than or equal to 1"),
        ("image: a\nbackoffLimit: -1", "backoffLimit", "greater than or equal to 0"),
        ("image: a\nmultiNode: MPIJob", "multiNode", "'IndexedJob' or 'JobSet'"),
        ("image: a\nenv: [{name: HOME, value: /x}]", "env", "HOME is reserved"),
        ("image: a\nenv: [{name: HF_HUB_OFFLINE, value: '0'}]", "env", "HF_HUB_OFFLINE is reserved"),
        ("image: a\nenv: [{name: FETTLE_WORK_DIR, value: /x}]", "env", "FETTLE_WORK_DIR is reserved"),
        ("image: a\nenv: [{name: A, value: '1'}, {name: A, value: '2'}]", "env", "A is there more than once"),
        ("image: a\nenv: [{value: '1'}]", "env", "needs a name"),
        ("image: a\nlabels: {fettle.dev/job: x}", "labels", "fettle.dev/job is reserved"),
        ("image: a\nlabels: {app.kubernetes.io/instance: x}", "labels", "reserved"),
        ("image: a\nlabels: {kueue.x-k8s.io/queue-name: x}", "labels", "queueName"),
        ("image: a\nlabels: {team: 'two words'}", "labels", "not a Kubernetes label"),
        ("image: a\nvolumes: [{name: scratch, emptyDir: {}}]", "volumes", "scratch is reserved"),
        ("image: a\nvolumeMounts: [{name: x, mountPath: /x}]", "volumeMounts", "no volume x"),
        (
            "image: a\nvolumes: [{name: x}]\nvolumeMounts: [{name: x, mountPath: /tmp/}]",
            "volumeMounts",
            "/tmp/ is reserv",
        ),
        ("image: a\nmodelCache: {claimName: m, mountPath: /tmp}", "modelCache.mountPath", "/tmp is taken"),
        ("image: a\nmodelCache: {}", "modelCache.claimName", "is missing"),
        ("- image: a", "image", "no keys"),
        ("", "image", "no keys"),
        ("image: [", "", "cannot be read"),
    ],
)
def test_what_cannot_be_honoured_is_refused(tmp_path: Path, text: str, key: str, reason: str) -> None:
    with pytest.raises(KubernetesSettingsError) as refusal:
        load(tmp_path, text)
    message = str(refusal.value)
    assert str(tmp_path / "training.yaml") in message
    assert key in message
    assert reason in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(KubernetesSettingsError, match=r"absent\.yaml cannot be read"):
        KubernetesSettings.load(tmp_path / "absent.yaml")


def test_a_refusal_does_not_repeat_a_secret(tmp_path: Path) -> None:
    with pytest.raises(KubernetesSettingsError) as refusal:
        load(tmp_path, "image: a\nenv: [{name: HOME, value: hunter2}]\nsecretKey: hunter3")
    assert "hunter" not in str(refusal.value)


def test_a_variable_that_the_service_sets_too_is_refused() -> None:
    settings = KubernetesSettings.model_validate({"image": "a", "env": [{"name": "AWS_DEFAULT_REGION", "value": "x"}]})
    settings.refuse_collisions(["AWS_ENDPOINT_URL_S3"])
    with pytest.raises(KubernetesSettingsError, match="AWS_DEFAULT_REGION"):
        settings.refuse_collisions(["AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION"])
