"""The chart's Grafana dashboard asks only for metrics that the service has, by labels that they have."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

from service.operations.metrics import Metrics

DASHBOARD = json.loads(
    (Path(__file__).resolve().parents[2] / "helm" / "fettle" / "dashboards" / "fettle.json").read_text()
)
METRICS = Metrics("all")

FROM_PROMETHEUS = {"namespace", "pod", "le"}
"""Labels that a scrape on a cluster adds, and that of histograms."""
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def names() -> set[str]:
    """Of samples, as Prometheus stores them."""
    return {family.name + suffix for family in METRICS.registry.collect() for suffix in SUFFIXES[family.type]}


def labels_of(name: str) -> set[str]:
    wrappers = [each for each in vars(METRICS).values() if isinstance(each, MetricWrapperBase)]
    for wrapper in wrappers:
        if name in {wrapper._name + suffix for suffix in SUFFIXES[wrapper._type]}:
            return set(wrapper._labelnames)
    return {"version", "role"} if name == "fettle_build_info" else set()


def metrics_in(expression: str) -> list[str]:
    return re.findall(r"\b(?:fettle|process|python)_[a-z_]+", expression)


def groupings_in(expression: str) -> Iterator[str]:
    for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        yield from (label.strip() for label in labels.split(","))


@pytest.mark.parametrize("expression", expressions())
def test_a_panel_asks_for_what_there_is(expression: str) -> None:
    asked = metrics_in(expression)
    assert asked
    assert set(asked) <= names()
    known = FROM_PROMETHEUS.union(*map(labels_of, asked))
    assert set(groupings_in(expression)) <= known
    assert expression.count("(") == expression.count(")")


def test_legends_show_labels_that_the_expression_leaves() -> None:
    for panel in panels():
        for target in panel["targets"]:
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert shown <= set(groupings_in(target["expr"])), panel["title"]


def test_every_metric_of_ours_has_a_place() -> None:
    asked = {name for expression in expressions() for name in metrics_in(expression)}
    families = {family.name for family in METRICS.registry.collect() if family.name.startswith("fettle_")}
    unseen = {family for family in families if not any(name.startswith(family) for name in asked)}
    assert unseen == set()


def test_its_rows_are_there_and_its_panels_do_not_overlap() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Jobs", "Dispatcher", "Gateway", "API and errors", "Resources"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
