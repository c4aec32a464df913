"""With keys configured nobody gets in without one, and no key is ever told back or written down."""

from pathlib import Path

import httpx
import openai
import pytest

from tests.fixtures.service import RunningService, StartService

KEYS = ("sk-first-key-of-this-test", "sk-second-key-of-this-test")


@pytest.fixture
def guarded(start_service: StartService, tmp_path: Path) -> RunningService:
    return start_service(tmp_path / "data", serving="off", api_keys=",".join(KEYS))


def test_keys_open_what_is_closed_without_them(guarded: RunningService) -> None:
    for key in KEYS:
        assert guarded.client.with_options(api_key=key).models.list().data
    with pytest.raises(openai.AuthenticationError) as error:
        guarded.client.with_options(api_key="sk-a-wrong-key-of-somebody").models.list()
    assert error.value.code == "invalid_api_key"
    assert error.value.message.count("sk-a-wrong-key-of-somebody") == 0
    for path in ("/v1/files", "/v1/models", "/v1/fine_tuning/jobs"):
        for headers in (
            {},
            {"authorization": "Basic c2s6"},
            {"authorization": "Bearer ä"},
        ):
            encoded = {name: value.encode() for name, value in headers.items()}
            answer = httpx.get(guarded.url + path, headers=encoded)
            assert answer.status_code == 401, (path, headers)
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    assert not [key for key in KEYS if key in guarded.log]


def test_an_operator_chooses_where_to_work_by_headers(guarded: RunningService) -> None:
    client = guarded.client.with_options(api_key=KEYS[0])
    made = httpx.post(
        f"{guarded.url}/v1/organizations", json={"name": "acme"}, headers={"authorization": f"Bearer {KEYS[0]}"}
    ).json()
    for options, expected in (
        ({}, ("org-default", "proj_default")),
        ({"organization": "org-default", "project": "proj_default"}, ("org-default", "proj_default")),
        ({"organization": made["id"]}, (made["id"], None)),
    ):
        headers = client.with_options(**options).models.with_raw_response.list().headers  # type: ignore[arg-type]
        assert headers["openai-organization"] == expected[0]
        assert (headers["openai-project"] == "proj_default") == (expected[1] is not None)
    for options, code in (
        ({"organization": "org-nobodys"}, "invalid_organization"),
        ({"project": "proj_nobodys"}, "invalid_project"),
        ({"organization": made["id"], "project": "proj_default"}, "invalid_project"),
        ({"project": "'; DROP TABLE projects; --"}, "invalid_project"),
    ):
        with pytest.raises(openai.AuthenticationError) as error:
            client.with_options(**options).models.list()  # type: ignore[arg-type]
        assert error.value.code == code, options


@pytest.mark.parametrize("key", [b"sk-" + b"x" * 10_000, b"\xf0\x9f\x98\x80", b"\xff\xfe", b"sk-fettle-" + b"A" * 48])
def test_a_hostile_key_opens_nothing_and_is_not_told_back(guarded: RunningService, key: bytes) -> None:
    for name, value in ((b"authorization", b"Bearer " + key), (b"api-key", key)):
        answer = httpx.get(f"{guarded.url}/v1/models", headers=[(name, value)])
        assert answer.status_code == 401, name
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert key not in answer.content
        assert len(answer.content) < 300


def test_a_name_that_another_organization_has_is_no_default_organizations(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service(tmp_path / "data", serving="off")
    assert httpx.post(f"{service.url}/v1/organizations", json={"name": "acme"}).status_code == 200
    service.stop()
    with pytest.raises(AssertionError, match="FETTLE_ORGANIZATION=acme: there is another organization"):
        start_service(tmp_path / "data", serving="off", organization="acme")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "null"},
        {"host": "evil.example:8000", "origin": "http://evil.example:8000"},  # its name was made to resolve to loopback
        {"host": "192.168.0.7:8000"},
    ],
)
def test_a_server_without_keys_answers_no_web_page(own_service: RunningService, headers: dict[str, str]) -> None:
    upload = {"file": ("rows.jsonl", b"{}")}
    for answer in (
        httpx.post(f"{own_service.url}/v1/files", files=upload, data={"purpose": "fine-tune"}, headers=headers),
        httpx.get(f"{own_service.url}/v1/files", headers=headers),
    ):
        assert answer.status_code == 403
        assert "FETTLE_API_KEYS" in answer.json()["error"]["message"]
    assert own_service.client.files.list().data == []
    same_origin = httpx.get(f"{own_service.url}/v1/files", headers={"origin": own_service.url})
    assert same_origin.status_code == 200


def test_with_keys_the_origin_does_not_matter(guarded: RunningService) -> None:
    headers = {"origin": "https://app.example", "host": "fettle.example", "authorization": f"Bearer {KEYS[0]}"}
    assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 200
