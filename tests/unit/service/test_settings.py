"""What may be served, and what may not."""

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert Settings(host=host).refusal_to_serve() is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "fettle.example.org", ""])
def test_any_other_host_without_keys_is_refused_with_the_remedy(host: str) -> None:
    refusal = Settings(host=host).refusal_to_serve()
    assert refusal is not None
    assert "FETTLE_API_KEYS" in refusal
    assert Settings.model_validate({"host": host, "api_keys": "a,b"}).refusal_to_serve() is None


def test_keys_come_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETTLE_API_KEYS", "first, second,")
    settings = Settings()
    assert [key.get_secret_value() for key in settings.api_keys] == ["first", "second"]
    assert "first" not in repr(settings)


@pytest.mark.parametrize(("name", "value"), [("FETTLE_PORT", "70000"), ("FETTLE_MAX_RUNNING_JOBS", "-1")])
def test_a_setting_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize("value", ["90", "90.0", "PT90S", "PT1M30S"])
def test_a_duration_is_seconds_or_iso_8601(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FETTLE_CANCEL_GRACE", value)
    assert Settings().cancel_grace == timedelta(seconds=90)


@pytest.mark.parametrize("value", ["", "soon", "nan", "inf", "1e400", "PT"])
def test_a_duration_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("FETTLE_CANCEL_GRACE", value)
    with pytest.raises(ValidationError):
        Settings()


def test_all_state_lies_under_the_data_folder_unless_told_otherwise(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert str(tmp_path) in settings.resolved_database_url
    assert str(tmp_path) in settings.resolved_storage_uri
    assert settings.executions_dir.is_relative_to(tmp_path)
