"""The committed description of the API is that of the app, and good enough to be the reference documentation."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from service.api_route import ONCE_SHOWN, ApiRoute
from service.app import create_app
from service.openapi import describe, render
from service.openapi_examples import NOWHERE
from service.settings import Settings

COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.yaml"
APP = create_app(Settings())
DESCRIBED = describe(APP)
OPERATIONS = [
    (path, method, operation) for path, methods in DESCRIBED["paths"].items() for method, operation in methods.items()
]
SECRETS = {"value", "signing_secret"}


def test_the_committed_description_is_up_to_date() -> None:
    assert COMMITTED.read_text() == render(APP), "run `make openapi` and commit what it writes"


def test_nothing_answers_that_is_not_checked_like_every_operation() -> None:
    others = {route.path for route in APP.routes if not isinstance(route, ApiRoute)}
    assert others == {"/health", "/livez", "/readyz", "/docs", "/docs/{name}", "/openapi.json", "/openapi.yaml"}
    assert all(route.path.startswith("/v1/") for route in APP.routes if isinstance(route, ApiRoute))


def test_every_operation_has_a_stable_id_and_a_described_tag() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(ids) == len(set(ids)) >= 50
    assert [each for each in ids if not re.fullmatch(r"[a-z]+(_[a-z]+)+", each)] == []
    tags = {tag["name"] for tag in DESCRIBED["tags"] if tag["description"]}
    assert [operation for _, _, operation in OPERATIONS if not set(operation["tags"]) <= tags] == []


def test_every_operation_is_described_with_its_parameters_and_errors() -> None:
    for path, method, operation in OPERATIONS:
        assert operation["description"].endswith("."), (path, method)
        assert operation["security"], (path, method)
        assert {"400", "401", "500", "503"} <= operation["responses"].keys(), (path, method)
        assert "422" not in operation["responses"], (path, method)
        assert ("404" in operation["responses"]) >= ("{" in path), (path, method)
        assert ("413" in operation["responses"]) == ("requestBody" in operation), (path, method)
        for parameter in operation.get("parameters", []):
            assert parameter["description"], (path, method, parameter["name"])
            assert parameter["schema"], (path, method, parameter["name"])
        for status, response in operation["responses"].items():
            is_known = "$ref" in response and resolved(response)["content"]["application/json"]["example"]
            assert is_known or int(status) < 400, (path, method, status)


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in part:
        return part
    _, kind, name = part["$ref"].removeprefix("#/").split("/")
    found: dict[str, Any] = DESCRIBED["components"][kind][name]
    return found


def examples() -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Where it stands, its schema, and the example."""
    for path, method, operation in OPERATIONS:
        bodies = {"request": operation.get("requestBody", {})} | operation["responses"]
        for place, body in bodies.items():
            for kind, media in resolved(body).get("content", {}).items():
                if kind == "application/json":
                    yield f"{method} {path} {place}", media["schema"], media["example"]
        for parameter in operation.get("parameters", []):
            if parameter["in"] == "path":
                yield f"{method} {path} {parameter['name']}", parameter["schema"], parameter["example"]
    for name, schema in DESCRIBED["components"]["schemas"].items():
        for example in schema.get("examples", []):
            yield f"schema {name}", schema, example


@pytest.mark.parametrize(("place", "schema", "example"), [pytest.param(*each, id=each[0]) for each in examples()])
def test_an_example_is_what_its_schema_allows(place: str, schema: dict[str, Any], example: Any) -> None:
    assert NOWHERE not in yaml.safe_dump(example)
    whole = {**schema, "components": DESCRIBED["components"]}
    faults = [str(fault) for fault in jsonschema_rs.validator_for(whole).iter_errors(example)]
    assert faults == []


def test_every_answer_with_a_secret_is_marked_so_that_it_is_never_kept() -> None:
    def shows_secret(operation: dict[str, Any]) -> bool:
        answer = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("example")
        return isinstance(answer, dict) and bool(SECRETS & answer.keys())

    showing = {operation["operationId"] for _, _, operation in OPERATIONS if shows_secret(operation)}
    marked = {operation["operationId"] for _, _, operation in OPERATIONS if operation.get(ONCE_SHOWN)}
    assert marked == showing
    assert len(marked) >= 4
