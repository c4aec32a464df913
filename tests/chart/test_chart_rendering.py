"""The chart in every documented profile, as Helm and today's Kubernetes see it."""

import json

import helm_python
import kubernetes_validate
import pytest

from tests.fixtures.chart import (
    CHART,
    PROFILES,
    Manifest,
    documented_profiles,
    profile_values,
    render,
    render_files,
    values,
)
from tests.fixtures.chart_everything import EVERYTHING

VERSIONS = [f"1.{minor}" for minor in range(29, 38)]

OF_THE_PROMETHEUS_OPERATOR = ("ServiceMonitor", "PrometheusRule")
"""Not Kubernetes' own: there is no schema to check them with."""


def test_every_profile_is_documented_and_no_other() -> None:
    names = {name for names in documented_profiles() for name in names}
    assert names == {path.stem for path in PROFILES.glob("*.yaml")}


@pytest.mark.parametrize("names", documented_profiles(), ids="+".join)
def test_helm_lint_has_nothing_to_say_of_a_documented_profile(names: tuple[str, ...]) -> None:
    report = helm_python.lint(str(CHART), profile_values(names))
    assert report["total_charts_linted"] == 1
    messages = [message for message in report["messages"] if message["error"] != "icon is recommended"]
    assert (messages, report["errors"]) == ([], [])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_for_kubernetes(version: str) -> None:
    for manifest in distinct_manifests():
        if manifest["kind"] not in OF_THE_PROMETHEUS_OPERATOR:
            assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_a_misspelt_field_would_be_found() -> None:
    manifest = distinct_manifests()[0]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**manifest, "metdata": {}}, VERSIONS[0], strict=True)


def test_a_template_makes_objects_of_one_kind() -> None:
    kinds: dict[str, set[str]] = {}
    for path, manifest in render_files(values(**EVERYTHING)):
        kinds.setdefault(path, set()).add(manifest["kind"])
    assert {path: kind for path, kind in kinds.items() if len(kind) > 1} == {}


def distinct_manifests() -> list[Manifest]:
    """Of all documented profiles, and of everything that can be switched on."""
    rendered = [profile_values(names) for names in documented_profiles()]
    rendered += [values(), values(**EVERYTHING)]
    found = {json.dumps(manifest, sort_keys=True): manifest for given in rendered for manifest in render(given)}
    return list(found.values())
