"""The reference documentation is served by the service itself and needs nothing from elsewhere."""

import json
import re

import httpx
import pytest
import yaml

from tests.fixtures.projects import GuardedService
from tests.fixtures.service import RunningService


def test_the_page_loads_only_what_the_service_has(service: RunningService) -> None:
    page = httpx.get(f"{service.url}/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert re.findall(r"(?:https?:)?//[^\"'\s]+", page.text) == []
    assert re.findall(r"<script>", page.text) == []  # the policy would not run it
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        answer = httpx.get(service.url + path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].split(";")[0] in ("text/javascript", "text/css")
        assert answer.headers["x-content-type-options"] == "nosniff"
    start = httpx.get(f"{service.url}/docs/start.js").text
    assert '"/openapi.json"' in start


def test_the_description_is_the_same_in_both_forms_and_needs_no_key(guarded_service: GuardedService) -> None:
    as_json = httpx.get(f"{guarded_service.url}/openapi.json")
    as_yaml = httpx.get(f"{guarded_service.url}/openapi.yaml")
    assert (as_json.headers["content-type"], as_yaml.headers["content-type"]) == (
        "application/json",
        "application/yaml",
    )
    assert yaml.safe_load(as_yaml.text) == json.loads(as_json.text)
    assert as_json.json()["openapi"].startswith("3.1")


@pytest.mark.parametrize("name", ["x", "..%2f..%2fpyproject.toml", "%2e%2e", "redoc.standalone.js", "a" * 5000])
def test_nothing_else_is_served_there(service: RunningService, name: str) -> None:
    answer = httpx.get(f"{service.url}/docs/{name}")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
