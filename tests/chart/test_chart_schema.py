"""values.yaml is the manual: each value is explained, each unknown one refused, and what is required is asked for."""

from typing import Any

import helm_python
import pytest
import yaml

from helm.generate_schema import REFERENCE, SCHEMA, SET_BY_THE_CHART, VALUES, generate_schema, json_text
from helm.values_reference import generate_reference
from service.settings import Settings
from tests.fixtures.chart import TINY, chart, merged, render, values


def test_the_committed_schema_and_reference_are_what_make_chart_writes() -> None:
    schema = generate_schema()  # which refuses a value without a comment
    assert SCHEMA.read_text() == json_text(schema), "run `make chart`"
    assert REFERENCE.read_text() == generate_reference(schema), "run `make chart`"


def test_a_value_without_a_comment_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = VALUES.read_text()
    monkeypatch.setattr("helm.generate_schema.VALUES", tmp_path / "values.yaml")
    (tmp_path / "values.yaml").write_text(f'{text}\nunexplained: ""\n')
    with pytest.raises(ValueError, match="unexplained has no comment"):
        generate_schema()


def test_every_value_of_the_file_is_in_the_schema_and_nothing_else() -> None:
    def keys(schema: Any, given: Any, path: str) -> None:
        if "properties" not in schema:
            return  # told elsewhere: Kubernetes' own, ours
        assert schema["additionalProperties"] is False, path
        assert set(schema["properties"]) - {"global"} == set(given), path
        for key, part in given.items():
            keys(schema["properties"][key], part, f"{path}.{key}")

    keys(generate_schema(), yaml.safe_load(VALUES.read_text()), "")


@pytest.mark.parametrize(
    ("unknown", "message"),
    [
        ({"modls": []}, "'modls' not allowed"),
        ({"api": {"replica": 3}}, "'replica' not allowed"),
        ({"api": {"resources": {"limts": {}}}}, "'limts' not allowed"),
        ({"api": {"replicas": "3"}}, "want integer"),
        ({"training": {"tolerations": [{"kye": "gpu"}]}}, "'kye' not allowed"),
        ({"training": {"image": "of-somebody"}}, "'image' not allowed"),
        ({"settings": {"max_file_byte": 1}}, "'max_file_byte' not allowed"),
        ({"settings": {"role": "all"}}, "'role' not allowed"),
        ({"models": [{**TINY, "context_lenght": 1}]}, "'context_lenght' not allowed"),
        ({"models": [{**TINY, "training": {"gpu": 1}}]}, "'gpu' not allowed"),
        ({"models": [{**TINY, "serving": {"gpu": 1}}]}, "'gpu' not allowed"),
        ({"models": [{"name": "tiny"}]}, "missing properties"),
        ({"labels": {"app.kubernetes.io/name": "mine"}}, "invalid propertyName"),
        ({"networkPolicies": {"storage": {"to": [{"ipBlok": {}}]}}}, "'ipBlok' not allowed"),
        ({"storage": {"endpointUrl": "https://key:secret@minio"}}, "does not match pattern"),
    ],
)
def test_an_unknown_or_impossible_value_is_refused_by_its_name(unknown: dict[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmError, match=message):
        chart().validate_schema(merged(values(), unknown))
    with pytest.raises(helm_python.HelmError, match=message):
        render(merged(values(), unknown))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"images": {"registry": ""}}, "images.registry must name the registry"),
        (
            {"database": {"existingSecret": ""}},
            "database.existingSecret must name a Secret .* this chart brings no database",
        ),
        ({"apiKeys": {"existingSecret": ""}}, "apiKeys.existingSecret must name a Secret"),
        ({"storage": {"uri": ""}}, "storage.uri must name your bucket.* this chart brings no object storage"),
        ({"storage": {"uri": "file:///data"}}, "pods share nothing but S3"),
        ({"models": []}, "models must name the base models"),
        ({"models": [{**TINY, "source": "./tiny"}]}, "the source of fettle-tiny is relative"),
        ({"models": [{**TINY, "chat_template": "./no.jinja"}]}, "which is not in chatTemplates"),
        ({"models": [{**TINY, "training": {"nodes": 2}}]}, "needs multiNode.enabled"),
        ({"models": [{**TINY, "name": "a.b"}, {**TINY, "name": "a-b"}]}, "a.b and a-b would share objects"),
        ({"ingress": {"enabled": True}}, "ingress.hosts must name"),
        ({"fullnameOverride": "1st"}, "set fullnameOverride"),
        ({"models": [{**TINY, "source": "a/b"}], "training": {"namespace": "gpus"}}, "modelCache.existingClaim"),
    ],
)
def test_what_is_missing_or_cannot_be_is_told_in_plain_words(missing: dict[str, Any], message: str) -> None:
    with pytest.raises(helm_python.HelmError, match=message):
        render(merged(values(), missing))


def test_the_settings_that_the_chart_makes_itself_are_still_settings() -> None:
    assert set(Settings.model_fields) >= SET_BY_THE_CHART
