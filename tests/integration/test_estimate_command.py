"""`fettle estimate`, alone and with a service."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService


def fettle_estimate(*arguments: object, base_url: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FETTLE_BASE_URL"}
    environment |= {"FETTLE_BASE_URL": base_url} if base_url else {}
    command = [sys.executable, "-m", "service.cli", "estimate", *map(str, arguments), "--model", "fettle-tiny"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_jsonl(chat_rows(20)))
    return path


def test_a_machine_alone_tells_what_a_job_would_be(rows: Path) -> None:
    done = fettle_estimate(rows, "--epochs", 2, "--fields", '{"x_training": {"r": 8}}', "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["hyperparameters"]["n_epochs"], found["x_resolved"]["r"]["value"]) == (20, 2, 8)
    assert "--base-url" in found["seconds"]["because"]
    assert found["memory"]["bytes"] > 0


def test_a_file_that_would_fail_ends_with_1_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_bytes(to_jsonl(chat_rows(7)))
    done = fettle_estimate(path)
    assert done.returncode == 1
    assert "7 example(s)" in done.stdout


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ('{"x_training": {"rank": 8}}', "Unknown parameter: 'rank'."),
        ('{"x_training": {"max_length": 100000}}', "max_length"),
        ("[1]", "JSON object"),
        ("{", "no JSON"),
    ],
)
def test_a_request_that_makes_no_sense_ends_with_2_and_one_line(rows: Path, fields: str, told: str) -> None:
    done = fettle_estimate(rows, "--fields", fields)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_service_is_asked_and_keeps_nothing(service: RunningService, rows: Path) -> None:
    before = [file.id for file in service.client.files.list(limit=5).data]
    done = fettle_estimate(rows, base_url=f"{service.url}/v1")
    assert done.returncode == 0, done.stderr
    assert "20, of which 20 are trained on" in done.stdout
    assert "± " in done.stdout
    assert [file.id for file in service.client.files.list(limit=5).data] == before
