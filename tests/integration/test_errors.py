"""What every answer carries, also the ones nobody wants."""

from pathlib import Path

import httpx
import psycopg
import pytest

from tests.fixtures.environment import require_environment
from tests.fixtures.service import RunningService, StartService, new_database

ERROR_KEYS = {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/nothing", "/v1/files/", "/v1/fine_tuning/jobs/x/y", "/docs/x"]
)
def test_an_unknown_url_is_an_openai_error(service: RunningService, path: str) -> None:
    answer = httpx.get(service.url + path)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == ERROR_KEYS


def test_a_wrong_method_is_an_openai_error_and_names_the_right_ones(service: RunningService) -> None:
    answer = httpx.put(f"{service.url}/v1/files")
    assert answer.status_code == 405
    assert answer.headers["allow"]
    assert set(answer.json()["error"]) == ERROR_KEYS


def test_every_answer_carries_openais_headers(service: RunningService) -> None:
    for path in ("/v1/models", "/v1/nothing"):
        headers = httpx.get(service.url + path).headers
        assert headers["openai-version"] == "2020-10-01"
        assert int(headers["openai-processing-ms"]) >= 0
        assert headers["x-request-id"]
    known = httpx.get(f"{service.url}/v1/models").headers
    assert (known["openai-organization"], known["openai-project"]) == ("org-default", "proj_default")


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "limit=100000000"])
def test_a_limit_out_of_range_is_refused_by_name(service: RunningService, query: str) -> None:
    answer = httpx.get(f"{service.url}/v1/fine_tuning/jobs?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "limit"


def test_an_unknown_job_is_not_found_on_every_route(service: RunningService) -> None:
    for job_id in ("ftjob-" + "a" * 24, "ftjob-x", "..%2F..%2Fetc", "%00"):
        for method, tail in (("GET", ""), ("GET", "/events"), ("GET", "/checkpoints"), ("POST", "/cancel")):
            answer = httpx.request(method, f"{service.url}/v1/fine_tuning/jobs/{job_id}{tail}")
            assert answer.status_code == 404, (job_id, tail)
            assert set(answer.json()["error"]) == ERROR_KEYS


def test_a_base_model_is_listed_and_cannot_be_deleted(service: RunningService) -> None:
    assert "fettle-tiny" in [model.id for model in service.client.models.list()]
    assert service.client.models.retrieve("fettle-tiny").owned_by == "fettle"
    answer = httpx.delete(f"{service.url}/v1/models/fettle-tiny")
    assert answer.status_code == 400
    answer = httpx.get(f"{service.url}/v1/models/ft:fettle-tiny:fettle::12345678")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"


HOSTILE = ["%00", "%ED%A0%80", "..%2F..%2Fetc%2Fpasswd", "'%20OR%201=1--", "%F0%9F%98%80" * 100]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_ids_find_nothing_and_break_nothing(service: RunningService, text: str) -> None:
    for path in (
        f"/v1/models/{text}",
        f"/v1/files/{text}",
        f"/v1/files/{text}/content",
        f"/v1/fine_tuning/jobs/{text}",
    ):
        assert httpx.get(service.url + path).status_code == 404, path
    for query in (f"/v1/files?after={text}", f"/v1/files?purpose={text}", f"/v1/fine_tuning/jobs?after={text}"):
        answer = httpx.get(service.url + query)
        if text == "%00":
            assert answer.status_code == 400, query
        else:
            assert (answer.status_code, answer.json()["data"]) == (200, []), query


def test_half_a_surrogate_pair_is_refused_like_anything_else(service: RunningService) -> None:
    for path in ("/v1/fine_tuning/jobs", "/v1/chat/completions"):
        answer = httpx.post(
            service.url + path,
            content=b'{"model": "\\ud800", "training_file": "file-x"}',
            headers={"content-type": "application/json"},
        )
        assert answer.status_code in (400, 404), path
        assert set(answer.json()["error"]) == ERROR_KEYS


def test_a_database_that_is_away_is_told_and_comes_back(start_service: StartService, tmp_path: Path) -> None:
    database_url = new_database()
    name = database_url.rsplit("/", 1)[1]
    service = start_service(tmp_path / "data", serving="off", database_url=database_url)
    admin = require_environment("FETTLE_TEST_DATABASE_URL", "a real PostgreSQL").replace("+psycopg", "")
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        answer = httpx.get(f"{service.url}/v1/files")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert answer.json()["error"]["code"] == "database_unavailable"
        assert name not in answer.text
        assert f"[{answer.headers['x-request-id']}]: the database does not answer" in service.log
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    assert httpx.get(f"{service.url}/v1/files").status_code == 200
