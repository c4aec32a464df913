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
