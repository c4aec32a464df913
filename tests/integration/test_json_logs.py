"""Logs as JSON: every line, with what it is about, and without a secret."""

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.fixtures.observed_service import BASE_MODEL, DATABASE_PASSWORD, SECRETS, ObservedService
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import wait_until


def record_of(observed: ObservedService, **fields: Any) -> dict[str, Any]:
    """The newest record with these fields, once there is one."""
    found: list[dict[str, Any]] = []

    def is_there() -> bool:
        found[:] = [record for record in observed.records if fields.items() <= record.items()]
        return bool(found)

    wait_until(is_there, 30, f"no record has {fields}", lambda: observed.service.log[-3000:])
    return found[-1]


def test_a_request_leaves_one_line_with_what_it_was(observed: ObservedService) -> None:
    answer = observed.client.files.with_raw_response.list()
    record = record_of(observed, request_id=answer.headers["x-request-id"])
    assert record["level"] == "INFO"
    assert record["logger"] == "service.access"
    assert record["message"] == "GET /v1/files 200"
    assert (record["method"], record["route"], record["status"]) == ("GET", "/v1/files", 200)
    assert record["project_id"] == "proj_default"
    assert record["ms"] > 0
    assert datetime.fromisoformat(record["time"]).tzinfo is not None


def test_a_key_is_named_by_its_id(observed: ObservedService) -> None:
    url = f"{observed.service.url}/v1/organization/projects/proj_default/api_keys"
    headers = {"authorization": f"Bearer {SECRETS['api_keys']}"}
    key = httpx.post(url, json={"name": "logged", "role": "reader"}, headers=headers).raise_for_status().json()
    answer = observed.client.with_options(api_key=key["value"]).files.with_raw_response.list()
    record = record_of(observed, request_id=answer.headers["x-request-id"])
    assert record["key_id"] == key["id"]
    assert key["value"] not in observed.service.log


def test_an_error_says_its_code(observed: ObservedService) -> None:
    with pytest.raises(openai.NotFoundError) as error:
        observed.client.chat.completions.create(model="nothing", messages=[{"role": "user", "content": "hi"}])
    record = record_of(observed, request_id=error.value.response.headers["x-request-id"])
    assert (record["status"], record["error_code"]) == (404, "model_not_found")


def test_what_a_step_logs_carries_the_id_of_its_job(observed: ObservedService) -> None:
    """Here: that its spec cannot be stored, for a file lies where the folder of jobs should be."""
    in_the_way = observed.service.data_dir / "objects" / "jobs"
    in_the_way.write_text("a file")
    rows = to_jsonl(chat_rows(10))
    file_id = observed.client.files.create(file=("rows.jsonl", rows), purpose="fine-tune").id
    job = observed.client.fine_tuning.jobs.create(model=BASE_MODEL, training_file=file_id)
    record = record_of(observed, job_id=job.id, level="ERROR")
    assert record["message"] == f"the step of job {job.id} (queued) failed"
    assert "StorageUnavailable" in record["exception"]
    observed.client.fine_tuning.jobs.cancel(job.id)
    in_the_way.unlink()


def test_probes_leave_no_line(observed: ObservedService) -> None:
    httpx.get(f"{observed.service.url}/livez")
    answer = observed.client.files.with_raw_response.list()
    record_of(observed, request_id=answer.headers["x-request-id"])
    assert [record for record in observed.records if record.get("route") == "/livez"] == []


def test_the_web_server_and_the_start_speak_json_too(observed: ObservedService) -> None:
    assert {"uvicorn.error", "service.cli.serve"} <= {record["logger"] for record in observed.records}
    assert "color_message" not in observed.service.log


def test_no_secret_is_logged_or_told_to_a_collector(observed: ObservedService) -> None:
    given = ("sk-guessed-Zz1-secret", "azure-guessed-Zz2-secret", "in-the-query-Zz3-secret", "in-the-body-Zz4-secret")
    url = observed.service.url
    httpx.get(f"{url}/v1/files", headers={"authorization": f"Bearer {given[0]}"})
    httpx.get(f"{url}/v1/files", headers={"api-key": given[1]})
    httpx.get(f"{url}/v1/files?key={given[2]}", headers={"authorization": f"Bearer {SECRETS['api_keys']}"})
    with pytest.raises(openai.BadRequestError):
        observed.client.fine_tuning.jobs.create(model=BASE_MODEL, training_file="x", extra_body={"seed": given[3]})
    observed.client.files.list()
    wait_until(lambda: bool(observed.collector.named("GET /v1/files")), 30, "no span of it came")
    for secret in (*SECRETS.values(), DATABASE_PASSWORD, *given):
        assert secret not in observed.service.log
        assert secret.encode() not in observed.collector.bytes


def test_a_start_that_fails_says_so_in_json(tmp_path: Path) -> None:
    environment = {
        "FETTLE_DATABASE_URL": f"postgresql+psycopg://fettle:{DATABASE_PASSWORD}@127.0.0.1:1/none",
        "FETTLE_LOG_FORMAT": "json",
        "PATH": "/usr/bin:/bin",
    }
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert finished.returncode not in (0, 2)
    records = [json.loads(line) for line in finished.stderr.splitlines()]
    assert any(record["level"] == "ERROR" for record in records)
    assert DATABASE_PASSWORD not in finished.stderr + finished.stdout
