"""Install, upgrade and uninstall on a real API server, and what the chart's own service accounts may do there.

The server may be older than the chart allows: the test then takes `kubeVersion` out of a copy, and leaves out the one
kind that such a server does not know (PodDisruptionBudget policy/v1, Kubernetes 1.21). It needs no node: what a kubelet
would do for the migration's hook, the test does.
"""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import helm_python
import kubernetes
import pytest
from kubernetes.client import ApiClient, ApiException

from tests.fixtures.chart import CHART, FROM_THE_HUB, TINY, Values, values
from tests.fixtures.cluster_rights import EVERYBODY_MAY, account, may
from tests.fixtures.environment import require_environment
from tests.fixtures.service import wait_until

TIMEOUT_SECONDS = 60

DISPATCHER_MAY = {
    *(("batch", "jobs", verb) for verb in ("create", "get", "list", "watch", "delete")),
    *(("", "pods", verb) for verb in ("get", "list", "watch", "delete")),
    ("", "pods/log", "get"),
    *(("", "events", verb) for verb in ("get", "list", "watch")),
}
ON_SEVERAL_NODES = {("", "services", verb) for verb in ("create", "get")}


@dataclass(frozen=True)
class Cluster:
    kubeconfig: str
    namespace: str
    chart: Path
    client: ApiClient
    helm: helm_python.Config = field(repr=False)

    @property
    def core(self) -> kubernetes.client.CoreV1Api:
        return kubernetes.client.CoreV1Api(self.client)

    @property
    def apps(self) -> kubernetes.client.AppsV1Api:
        return kubernetes.client.AppsV1Api(self.client)

    @property
    def batch(self) -> kubernetes.client.BatchV1Api:
        return kubernetes.client.BatchV1Api(self.client)

    def values(self, **more: Any) -> Values:
        return values(**{"podDisruptionBudgets": {"enabled": self.server_version() >= (1, 21)}, **more})

    def server_version(self) -> tuple[int, int]:
        info = kubernetes.client.VersionApi(self.client).get_code()
        return int(info.major), int(info.minor.rstrip("+"))

    def install(self, release: str, **more: Any) -> dict[str, Any]:
        return self.helm.install(str(self.chart), release, self.values(**more), timeout=TIMEOUT_SECONDS)

    def upgrade(self, release: str, **more: Any) -> dict[str, Any]:
        return self.helm.upgrade(str(self.chart), release, self.values(**more), timeout=TIMEOUT_SECONDS)

    def deployments(self) -> dict[str, Any]:
        return {each.metadata.name: each for each in self.apps.list_namespaced_deployment(self.namespace).items}

    def left_of(self, release: str) -> set[str]:
        """Objects with the release's label, of every kind that the chart makes."""
        rbac = kubernetes.client.RbacAuthorizationV1Api(self.client)
        network = kubernetes.client.NetworkingV1Api(self.client)
        lists: list[Callable[..., Any]] = [
            *(self.core.list_namespaced_service, self.core.list_namespaced_config_map),
            *(self.core.list_namespaced_secret, self.core.list_namespaced_service_account),
            *(self.core.list_namespaced_persistent_volume_claim, self.core.list_namespaced_pod),
            *(self.apps.list_namespaced_deployment, self.batch.list_namespaced_job),
            *(rbac.list_namespaced_role, rbac.list_namespaced_role_binding),
            *(network.list_namespaced_network_policy, network.list_namespaced_ingress),
        ]
        selector = f"app.kubernetes.io/name=fettle,app.kubernetes.io/instance={release}"
        found = {
            item.metadata.name
            for each in lists
            for item in each(self.namespace, label_selector=selector).items
            if item.metadata.deletion_timestamp is None  # a claim waits for a controller, which may not be there
        }
        cluster_wide: list[Callable[..., Any]] = [rbac.list_cluster_role, rbac.list_cluster_role_binding]
        return found | {item.metadata.name for each in cluster_wide for item in each(label_selector=selector).items}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    path = require_environment("KUBECONFIG", "a real Kubernetes")
    client = kubernetes.config.new_client_from_config(path)
    core = kubernetes.client.CoreV1Api(client)
    namespace = f"fettle-chart-{uuid4().hex[:10]}"
    core.create_namespace({"metadata": {"name": namespace}})
    helm = helm_python.Config(kubeconfig_path=path, namespace=namespace)
    yield Cluster(path, namespace, chart_for_any_server(tmp_path_factory.mktemp("chart")), client, helm)
    helm.close()
    core.delete_namespace(namespace)


def chart_for_any_server(folder: Path) -> Path:
    copy = folder / "fettle"
    shutil.copytree(CHART, copy)
    lines = (copy / "Chart.yaml").read_text().splitlines(keepends=True)
    (copy / "Chart.yaml").write_text("".join(line for line in lines if not line.startswith("kubeVersion:")))
    return copy


@contextmanager
def migrations_done(cluster: Cluster, release: str) -> Iterator[list[set[str]]]:
    """Tells Kubernetes that the migration has ended well, once. Yields which Deployments were there at that moment."""
    name = f"{release}-fettle-migrate"
    seen: list[set[str]] = []
    failures: list[BaseException] = []

    def job_ids() -> set[str]:
        jobs = cluster.batch.list_namespaced_job(cluster.namespace).items
        return {each.metadata.uid for each in jobs if each.metadata.name == name}

    failed_before = job_ids()

    def complete() -> None:
        try:
            wait_until(lambda: bool(job_ids() - failed_before), TIMEOUT_SECONDS, "there was no migration")
            seen.append({each for each in cluster.deployments() if each.startswith(f"{release}-")})
            now = "2030-01-01T00:00:00Z"
            condition = {"type": "Complete", "status": "True", "lastTransitionTime": now, "lastProbeTime": now}
            status = {"succeeded": 1, "startTime": now, "completionTime": now, "conditions": [condition]}
            cluster.batch.patch_namespaced_job_status(name, cluster.namespace, {"status": status})
        except BaseException as error:  # raised where the test sees it
            failures.append(error)

    thread = threading.Thread(target=complete)
    thread.start()
    try:
        yield seen
    finally:
        thread.join()
    assert failures == []


def test_a_release_is_installed_upgraded_and_gone_again(cluster: Cluster) -> None:
    with migrations_done(cluster, "one") as there_at_migration:
        cluster.install("one", models=[TINY, FROM_THE_HUB])
    assert there_at_migration == [set()], "the database is migrated before anything runs on it"
    before = cluster.deployments()
    assert {"one-fettle-api", "one-fettle-dispatcher", "one-fettle-vllm-fettle-tiny"} <= before.keys()
    key = cluster.core.read_namespaced_secret("one-fettle-vllm", cluster.namespace).data["api-key"]
    fetch_jobs = {name for name in cluster.left_of("one") if "-models-" in name}

    changed = {**FROM_THE_HUB, "revision": "0" * 40}
    with migrations_done(cluster, "one") as there_at_migration:
        cluster.upgrade("one", models=[TINY, changed], api={"replicas": 3}, training={"backoffLimit": 7})
    assert before.keys() == there_at_migration[0], "the old pods work on while the database is migrated"
    after = cluster.deployments()
    assert after["one-fettle-api"].spec.replicas == 3
    assert cluster.core.read_namespaced_secret("one-fettle-vllm", cluster.namespace).data["api-key"] == key
    generations = {name: (before[name].metadata.generation, after[name].metadata.generation) for name in before}
    unchanged = {name for name, (old, new) in generations.items() if old == new}
    assert unchanged == {"one-fettle-vllm-fettle-tiny"}, "a model that did not change is not loaded again"
    assert {name for name in cluster.left_of("one") if "-models-" in name} != fetch_jobs

    cluster.helm.uninstall("one", timeout=TIMEOUT_SECONDS)
    wait_until(lambda: not cluster.left_of("one"), TIMEOUT_SECONDS, "something of the release stayed")


def test_a_migration_that_fails_leaves_the_installation_as_it_was(cluster: Cluster) -> None:
    with migrations_done(cluster, "two"):
        cluster.install("two")
    before = cluster.deployments()["two-fettle-api"].metadata.generation
    with pytest.raises(helm_python.HelmError):  # nobody ends the migration
        cluster.helm.upgrade(str(cluster.chart), "two", cluster.values(api={"replicas": 5}), timeout=3)
    assert cluster.deployments()["two-fettle-api"].metadata.generation == before
    with migrations_done(cluster, "two"):
        cluster.upgrade("two", api={"replicas": 4})
    assert cluster.deployments()["two-fettle-api"].spec.replicas == 4
    cluster.helm.uninstall("two", timeout=TIMEOUT_SECONDS)


def test_a_server_that_would_drop_fields_in_silence_is_refused(cluster: Cluster) -> None:
    if cluster.server_version() >= (1, 29):
        pytest.skip("this server is new enough")
    with pytest.raises(helm_python.HelmError, match="requires kubeVersion"):
        cluster.helm.install(str(CHART), "old", cluster.values(), timeout=TIMEOUT_SECONDS)


def test_two_releases_live_in_one_namespace(cluster: Cluster) -> None:
    for name in ("three", "four"):
        with migrations_done(cluster, name):
            cluster.install(name)
    assert {"three-fettle-api", "four-fettle-api"} <= cluster.deployments().keys()
    cluster.helm.uninstall("three", timeout=TIMEOUT_SECONDS)
    assert "four-fettle-api" in cluster.deployments()
    cluster.helm.uninstall("four", timeout=TIMEOUT_SECONDS)


def test_the_dispatcher_may_do_its_work_and_nothing_else(cluster: Cluster) -> None:
    with migrations_done(cluster, "five"):
        cluster.install("five", training={"canReadNodes": True})
    with account(cluster.client, cluster.namespace, "five-fettle-dispatcher") as dispatcher:
        assert may(cluster.client, dispatcher, cluster.namespace) == DISPATCHER_MAY
        assert may(cluster.client, dispatcher, "default") == set()
        assert may(cluster.client, dispatcher, None) == EVERYBODY_MAY | {("", "nodes", "list")}
        _work_as_a_dispatcher(dispatcher, cluster.namespace)
    for name in ("api", "training", "serving"):
        with account(cluster.client, cluster.namespace, f"five-fettle-{name}") as other:
            assert may(cluster.client, other, cluster.namespace) == set()
            assert may(cluster.client, other, None) == EVERYBODY_MAY

    with migrations_done(cluster, "five"):
        cluster.upgrade("five", multiNode={"enabled": True})
    with account(cluster.client, cluster.namespace, "five-fettle-dispatcher") as dispatcher:
        assert may(cluster.client, dispatcher, cluster.namespace) == DISPATCHER_MAY | ON_SEVERAL_NODES
        assert may(cluster.client, dispatcher, None) == EVERYBODY_MAY
    cluster.helm.uninstall("five", timeout=TIMEOUT_SECONDS)


def test_trainers_in_another_namespace_are_the_dispatchers_only_concern(cluster: Cluster) -> None:
    training = f"{cluster.namespace}-gpus"
    cluster.core.create_namespace({"metadata": {"name": training}})
    try:
        with migrations_done(cluster, "six"):
            cluster.install("six", training={"namespace": training})
        with account(cluster.client, cluster.namespace, "six-fettle-dispatcher") as dispatcher:
            assert may(cluster.client, dispatcher, training) == DISPATCHER_MAY
            assert may(cluster.client, dispatcher, cluster.namespace) == set()
        cluster.helm.uninstall("six", timeout=TIMEOUT_SECONDS)
    finally:
        cluster.core.delete_namespace(training)


def _work_as_a_dispatcher(client: ApiClient, namespace: str) -> None:
    """Real calls, and real refusals."""
    core, batch = kubernetes.client.CoreV1Api(client), kubernetes.client.BatchV1Api(client)
    apps = kubernetes.client.AppsV1Api(client)
    container = {"name": "trainer", "image": "registry.example.com/none"}
    pod = {"restartPolicy": "Never", "containers": [container]}
    job = {"metadata": {"name": "ftjob-rights-1"}, "spec": {"suspend": True, "template": {"spec": pod}}}
    batch.create_namespaced_job(namespace, job)
    assert batch.read_namespaced_job("ftjob-rights-1", namespace).metadata.name == "ftjob-rights-1"
    batch.list_namespaced_job(namespace)
    core.list_namespaced_event(namespace)
    batch.delete_namespaced_job("ftjob-rights-1", namespace, propagation_policy="Background")

    refused: list[Callable[[], object]] = [
        lambda: core.list_namespaced_secret(namespace),
        lambda: core.read_namespaced_secret("five-fettle-vllm", namespace),
        lambda: core.create_namespaced_pod(namespace, {"metadata": {"name": "p"}, "spec": pod}),
        lambda: core.connect_get_namespaced_pod_exec("p", namespace, command=["sh"]),
        lambda: core.create_namespaced_service(
            namespace, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}}
        ),
        lambda: core.list_namespaced_config_map(namespace),
        lambda: apps.list_namespaced_deployment(namespace),
        lambda: batch.patch_namespaced_job("ftjob-rights-1", namespace, {"spec": {"suspend": False}}),
        lambda: batch.delete_collection_namespaced_job(namespace),
        lambda: core.delete_collection_namespaced_pod(namespace),
        lambda: batch.list_namespaced_job("default"),
        lambda: batch.list_job_for_all_namespaces(),
        lambda: core.list_pod_for_all_namespaces(),
    ]
    for call in refused:
        with pytest.raises(ApiException) as raised:
            call()
        assert raised.value.status == 403
