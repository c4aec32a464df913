"""What belongs to a whole release: its names beside those of others, its alerts and dashboard, and its notes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from service.operations.metrics import Metrics
from tests.fixtures.chart import FROM_THE_HUB, TINY, find, load_training, merged, notes, of_kind, render, values
from tests.fixtures.chart_everything import EVERYTHING


def test_releases_do_not_share_names() -> None:
    def names(release: str, namespace: str = "ml", **more: Any) -> set[tuple[str, str, str]]:
        return {
            (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
            for each in render(values(**more), release, namespace)
            if each["kind"] != "NetworkPolicy" or each["metadata"]["name"]
        }

    assert not names("fettle") & names("a")
    assert not names("a") & names("a-fettle")
    assert not names("a") & names("a.fettle")
    nodes = {"canReadNodes": True, "namespace": "gpus"}
    shared = {each for each in names("fettle", "a", training=nodes) & names("fettle", "b", training=nodes) if each[1]}
    assert shared == set()  # in the namespace that they share
    cluster = [
        {each for each in names("fettle", namespace, training=nodes) if each[0].startswith("Cluster")}
        for namespace in ("a", "b")
    ]
    assert not cluster[0] & cluster[1]


def test_releases_that_share_a_namespace_for_trainers_know_their_own_jobs(tmp_path: Path) -> None:
    instances = [
        load_training(render(values(training={"namespace": "gpus"}), "fettle", namespace), tmp_path).instance
        for namespace in ("a", "b")
    ]
    assert instances == ["fettle.a", "fettle.b"]
    assert load_training(render(values(), "mine"), tmp_path).instance == "mine"


@pytest.mark.parametrize("release", ["r" * 53, "fettle", "a.b-c"])
def test_names_are_short_enough_and_names_of_services_are_host_names(release: str) -> None:
    long_model = {**FROM_THE_HUB, "name": f"Model_{'x' * 84}.v1", "serving": {}}
    for manifest in render(merged(values(**EVERYTHING), {"models": [long_model, TINY]}), release, "n" * 63):
        name = manifest["metadata"]["name"]
        assert len(name) <= 63, name
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name), name
        every = [manifest["metadata"].get("labels", {})]
        if manifest["kind"] in ("Deployment", "Job"):
            every.append(manifest["spec"]["template"]["metadata"]["labels"])
        for labels in every:
            assert all(len(value) <= 63 for value in labels.values()), labels


def test_alerts_ask_for_metrics_that_the_service_has() -> None:
    [rule] = of_kind(render(values(prometheusRule={"enabled": True})), "PrometheusRule")
    asked = set(re.findall(r"\bfettle_\w+", json.dumps(rule["spec"])))
    assert asked and asked <= metric_names()


def test_the_dashboard_is_one_and_asks_for_metrics_that_the_service_has() -> None:
    manifests = render(values(grafanaDashboard={"enabled": True}))
    dashboard = json.loads(find(manifests, "ConfigMap", "fettle-dashboard")["data"]["fettle.json"])
    assert dashboard["title"] and dashboard["panels"]
    asked = set(re.findall(r"\bfettle_\w+", json.dumps(dashboard["panels"])))
    assert asked and asked <= metric_names()


def test_notes_warn_of_what_is_missing_and_are_quiet_when_nothing_is() -> None:
    keys = {who: {"existingSecret": f"s3-{who}"} for who in ("service", "training", "serving")}
    assert "WARNING" not in notes(values(storage=keys))
    assert "port-forward service/fettle-api" in notes(values(storage=keys))
    assert "no model is served" in notes(values(serving={"defaults": {"enabled": False}}))
    assert "storage.training.existingSecret is empty" in notes(values())
    one = {who: {"existingSecret": "s3"} for who in keys}
    assert "have the service's own storage credentials" in notes(values(storage=one))
    assert "qwen3-0.6b has no revision" in notes(values(models=[FROM_THE_HUB]))
    assert "may open 90 connections" in notes(values())
    assert "may open 70 connections" in notes(values(autoscaling={"enabled": True}, settings={"database_pool_size": 5}))


def metric_names() -> set[str]:
    suffixes = ("", "_total", "_info", "_bucket", "_sum", "_count")
    return {metric.name + suffix for metric in Metrics("api").registry.collect() for suffix in suffixes}
