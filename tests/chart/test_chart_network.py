"""Who may talk to whom. That a network enforces it is beyond these tests: they read the policies as Kubernetes defines
them."""

from typing import Any

import pytest

from service.executors.kubernetes_manifest import instance_selector
from service.executors.kubernetes_settings import KubernetesSettings
from tests.fixtures.chart import FROM_THE_HUB, Manifest, of_kind, pods, render, values

Labels = dict[str, str]

INTERNET = [
    {
        "ipBlock": {
            "cidr": "0.0.0.0/0",
            "except": [
                "10.0.0.0/8",
                "100.64.0.0/10",
                "127.0.0.0/8",
                "169.254.0.0/16",
                "172.16.0.0/12",
                "192.168.0.0/16",
            ],
        }
    },
    {"ipBlock": {"cidr": "::/0", "except": ["::1/128", "fc00::/7", "fe80::/10"]}},
]
HTTPS = [{"port": 443, "protocol": "TCP"}]
DNS_PORTS = [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]


def trainer(instance: str = "fettle") -> Labels:
    """As the service itself labels training pods."""
    settings = KubernetesSettings.model_validate({"image": "trainer", "instance": instance})
    return dict(pair.split("=") for pair in instance_selector(settings).split(","))


def test_only_api_and_dispatcher_reach_vllm() -> None:
    manifests = render(values())
    labels = labels_of_pods(manifests)
    assert who_reaches("vllm", "http", manifests, labels) == {"api", "dispatcher"}
    assert not may_reach(labels["vllm"], {"app": "somebody"}, "http", manifests)
    assert not may_reach(labels["vllm"], trainer(), "http", manifests)
    other_release = labels_of_pods(render(values(), "other"))["api"]
    assert not may_reach(labels["vllm"], other_release, "http", manifests)


def test_nobody_reaches_training_pods_and_those_of_several_nodes_reach_each_other() -> None:
    everybody = [*labels_of_pods(render(values())).values(), trainer(), trainer("other"), {"app": "somebody"}]
    for labels in everybody:
        assert not may_reach(trainer(), labels, 29500, render(values()))
    manifests = render(values(multiNode={"enabled": True}))
    assert [labels for labels in everybody if may_reach(trainer(), labels, 29500, manifests)] == [trainer()]
    assert {"podSelector": {"matchLabels": trainer()}} in [
        peer for rule in egress(manifests, trainer()) for peer in rule["to"]
    ]


def test_the_api_is_open_where_nothing_is_said_and_else_only_to_those_who_are_named() -> None:
    manifests = render(values())
    labels = labels_of_pods(manifests)
    assert may_reach(labels["api"], {"app": "somebody"}, "http", manifests)
    assert who_reaches("api", "ops", manifests, labels) == {"test"}
    assert who_reaches("dispatcher", "ops", manifests, labels) == {"test"}
    manifests = render(values(networkPolicies={"apiFrom": [{"podSelector": {"matchLabels": {"app": "gateway"}}}]}))
    assert may_reach(labels["api"], {"app": "gateway"}, "http", manifests)
    assert may_reach(labels["api"], labels["test"], "http", manifests)
    assert not may_reach(labels["api"], {"app": "somebody"}, "http", manifests)


def test_nobody_reaches_the_charts_own_jobs() -> None:
    manifests = render(values(models=[FROM_THE_HUB]))
    labels = labels_of_pods(manifests)
    for job in ("migrate", "models-fetch"):
        assert not may_reach(labels[job], labels["api"], 8000, manifests)


@pytest.mark.parametrize(
    ("storage", "policy", "expected"),
    [
        ({}, {}, {"to": INTERNET, "ports": HTTPS}),
        ({"endpointUrl": "https://s3.example.com"}, {}, {"to": INTERNET, "ports": HTTPS}),
        (
            {"endpointUrl": "https://s3.example.com:8443/"},
            {},
            {"to": INTERNET, "ports": [{"port": 8443, "protocol": "TCP"}]},
        ),
        (
            {"endpointUrl": "http://minio.storage.svc:9000"},
            {},
            {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}]},
        ),
        (
            {"endpointUrl": "http://minio.storage.svc.cluster.local"},
            {},
            {"to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}]},
        ),
        (
            {"endpointUrl": "http://10.1.2.3:9000"},
            {},
            {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"port": 9000, "protocol": "TCP"}]},
        ),
        (
            {"endpointUrl": "http://10.1.2.3"},
            {},
            {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"port": 80, "protocol": "TCP"}]},
        ),
        (
            {"endpointUrl": "https://[fd00::5]:9000"},
            {},
            {"to": [{"ipBlock": {"cidr": "fd00::5/128"}}], "ports": [{"port": 9000, "protocol": "TCP"}]},
        ),
        (
            {"endpointUrl": "https://[fd00::5]"},
            {},
            {"to": [{"ipBlock": {"cidr": "fd00::5/128"}}], "ports": HTTPS},
        ),
        (
            {"endpointUrl": "https://s3.example.com"},
            {"to": [{"ipBlock": {"cidr": "10.2.0.0/16"}}]},
            {"to": [{"ipBlock": {"cidr": "10.2.0.0/16"}}], "ports": HTTPS},
        ),
        (
            {"endpointUrl": "http://minio.storage.svc"},
            {"ports": [{"port": 9000}]},
            {
                "to": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "storage"}}}],
                "ports": [{"port": 9000}],
            },
        ),
    ],
)
def test_training_pods_and_vllm_reach_storage_and_name_servers_only(
    storage: dict[str, Any], policy: dict[str, Any], expected: dict[str, Any]
) -> None:
    manifests = render(values(storage=storage, networkPolicies={"storage": policy}))
    for labels in (trainer(), labels_of_pods(manifests)["vllm"]):
        dns, *others = egress(manifests, labels)
        assert dns["ports"] == DNS_PORTS
        assert others == [expected]


def test_pods_that_download_models_reach_the_internet() -> None:
    storage = {"endpointUrl": "http://10.1.2.3:9000"}
    cached = render(values(models=[FROM_THE_HUB], storage=storage))
    assert {"to": INTERNET, "ports": HTTPS} not in egress(cached, trainer())
    downloading = render(values(models=[FROM_THE_HUB], storage=storage, modelCache={"enabled": False}))
    assert {"to": INTERNET, "ports": HTTPS} in egress(downloading, trainer())
    assert {"to": INTERNET, "ports": HTTPS} in egress(downloading, labels_of_pods(downloading)["vllm"])


def test_api_and_dispatcher_reach_everything_until_somebody_says_what() -> None:
    manifests = render(values())
    labels = labels_of_pods(manifests)
    named = {"to": [{"ipBlock": {"cidr": "10.3.0.0/16"}}]}
    restricted = render(values(networkPolicies={"serviceEgress": [named]}))
    for who in ("api", "dispatcher"):
        assert "Egress" not in {
            kind for policy in policies_of(manifests, labels[who]) for kind in policy["policyTypes"]
        }
        dns, vllm, other = egress(restricted, labels[who])
        assert dns["ports"] == DNS_PORTS
        assert matches(vllm["to"][0]["podSelector"], labels["vllm"])
        assert other == named


def test_without_network_policies_there_are_none() -> None:
    assert of_kind(render(values(networkPolicies={"enabled": False})), "NetworkPolicy") == []


def labels_of_pods(manifests: list[Manifest]) -> dict[str, Labels]:
    """By component."""
    found = {}
    for manifest in pods(manifests):
        metadata = manifest["metadata"] if manifest["kind"] == "Pod" else manifest["spec"]["template"]["metadata"]
        found[metadata["labels"]["app.kubernetes.io/component"]] = metadata["labels"]
    return found


def who_reaches(component: str, port: int | str, manifests: list[Manifest], labels: dict[str, Labels]) -> set[str]:
    return {name for name, other in labels.items() if may_reach(labels[component], other, port, manifests)}


def may_reach(target: Labels, source: Labels, port: int | str, manifests: list[Manifest]) -> bool:
    """Within the namespace, by these policies."""
    rules = [policy["ingress"] for policy in policies_of(manifests, target) if "Ingress" in policy["policyTypes"]]
    return not rules or any(_admits(rule, source, port) for ingress in rules for rule in ingress)


def _admits(rule: dict[str, Any], source: Labels, port: int | str) -> bool:
    ports = rule.get("ports")
    if ports and port not in [each["port"] for each in ports]:
        return False
    peers = rule.get("from")
    return not peers or any(matches(peer["podSelector"], source) for peer in peers if set(peer) == {"podSelector"})


def egress(manifests: list[Manifest], labels: Labels) -> list[dict[str, Any]]:
    [policy] = policies_of(manifests, labels)
    assert "Egress" in policy["policyTypes"]
    rules: list[dict[str, Any]] = policy["egress"]
    return rules


def policies_of(manifests: list[Manifest], labels: Labels) -> list[dict[str, Any]]:
    specs = [policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")]
    return [spec for spec in specs if matches(spec["podSelector"], labels)]


def matches(selector: dict[str, Any], labels: Labels) -> bool:
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())
