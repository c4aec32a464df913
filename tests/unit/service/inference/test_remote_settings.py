"""What is wrong with the settings of remote serving is told at the start: the field, and what to do."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.app import create_app
from service.inference.engines import Engine
from service.settings import Settings
from tuning.catalogue import CatalogueError

KEY = "sk-of-the-engines"
GOOD = {"serving": "remote", "vllm_api_key": KEY, "vllm_urls": {"fettle-tiny": "http://vllm-fettle-tiny:8000"}}


def refused(**changes: object) -> str:
    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({name: value for name, value in (GOOD | changes).items() if value is not None})
    return "; ".join(error["msg"] for error in raised.value.errors())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "is not an http:// or https:// URL"),
        ("vllm:8000", "is not an http:// or https:// URL"),
        ("ftp://vllm:8000", "is not an http:// or https:// URL"),
        ("http://", "is not an http:// or https:// URL"),
        ("http://vllm:99999", "is not a URL"),
        ("http://vllm:port", "is not a URL"),
        ("http://[vllm", "is not a URL"),
        ("http://vllm:8000\n", "is not an http:// or https:// URL"),
        ("http://user:secret@vllm:8000", "has a user or password in it"),
        ("http://vllm:8000?a=b", "has a query or a fragment"),
    ],
)
def test_an_address_that_is_none_is_named_with_its_model(url: str, words: str) -> None:
    message = refused(vllm_urls={"fettle-tiny": url})
    assert words in message
    assert "'fettle-tiny'" in message and "http://vllm-fettle-tiny:8000" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vllm_api_key": None}, "serving=remote needs vllm_api_key"),
        ({"vllm_api_key": ""}, "serving=remote needs vllm_api_key"),
        ({"vllm_urls": None}, "serving=remote needs vllm_urls"),
        ({"vllm_urls": {}}, "serving=remote needs vllm_urls"),
        ({"serving": "vllm", "vllm_api_key": None}, "vllm_urls has no use with serving=vllm"),
        ({"serving": "off", "vllm_urls": None}, "vllm_api_key has no use with serving=off"),
        ({"gpu_memory_utilization": 0.5}, "gpu_memory_utilization has no use with serving=remote"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, object], words: str) -> None:
    message = refused(**changes)
    assert words in message
    assert KEY not in message


def test_an_address_of_an_unknown_model_is_refused_with_the_known_ones() -> None:
    settings = Settings.model_validate(GOOD | {"vllm_urls": {"fettle-tinny": "http://vllm:8000"}})
    with pytest.raises(CatalogueError, match=r"FETTLE_VLLM_URLS names fettle-tinny, .* it has fettle-tiny"):
        create_app(settings)


def test_they_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FETTLE_SERVING", "remote")
    monkeypatch.setenv("FETTLE_VLLM_API_KEY", KEY)
    monkeypatch.setenv("FETTLE_VLLM_URLS", json.dumps({"fettle-tiny": "https://[fd00::1]:8443/gateway/"}))
    settings = Settings(data_dir=tmp_path)
    assert settings.vllm_urls == {"fettle-tiny": "https://[fd00::1]:8443/gateway/"}
    assert KEY not in repr(settings)


def test_a_key_is_not_shown_by_an_engine() -> None:
    assert KEY not in repr(Engine("http://vllm:8000", KEY))
