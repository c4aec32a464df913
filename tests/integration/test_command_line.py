"""`fettle` as people type it: a process with its exit code and what it prints."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.projects import OPERATOR_KEY, GuardedService
from tests.fixtures.service import RunningService, free_port


def fettle(
    *arguments: str, base_url: str = "http://127.0.0.1:9/v1", api_key: str = "none"
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"FETTLE_BASE_URL": base_url, "FETTLE_API_KEY": api_key, "COLUMNS": "120"}
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def a_file(folder: Path, rows: int) -> Path:
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    path = folder / "rows.jsonl"
    path.write_text(f"{json.dumps(row)}\n" * rows, encoding="utf-8")
    return path


def test_a_host_that_others_reach_needs_keys() -> None:
    refused = fettle("serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 2
    assert "Refusing to serve on 0.0.0.0 without API keys" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_setting_that_does_not_exist_is_refused_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FETTLE_MAX_RUNING_JOBS", "2")
    refused = fettle("serve", "--port", "0")
    assert refused.returncode == 2
    assert "FETTLE_MAX_RUNING_JOBS (did you mean FETTLE_MAX_RUNNING_JOBS?)" in refused.stderr


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = fettle("serve", "--port", port, "--data-dir", str(tmp_path / "data"))
    assert refused.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in refused.stderr


def test_a_catalogue_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    refused = fettle("serve", "--port", "0", "--models", str(tmp_path / "none.yaml"))
    assert refused.returncode == 2
    assert "none.yaml" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_data_folder_that_another_service_has_is_refused(own_service: RunningService) -> None:
    refused = fettle("serve", "--port", "0", "--data-dir", str(own_service.data_dir))
    assert refused.returncode == 2
    assert "is in use by another fettle" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_no_service_is_one_readable_line() -> None:
    failed = fettle("jobs", "list", base_url=f"http://127.0.0.1:{free_port()}/v1")
    assert failed.returncode == 1
    assert failed.stderr.startswith("fettle: No service answers at http://127.0.0.1:")
    assert failed.stderr.count("\n") == 1


def test_an_unknown_job_is_one_readable_line(service: RunningService) -> None:
    failed = fettle("jobs", "get", "ftjob-abcdefghijklmnopqrstuvwx", base_url=f"{service.url}/v1")
    assert failed.returncode == 1
    assert "ftjob-abcdefghijklmnopqrstuvwx" in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_a_watched_job_that_fails_says_why_and_exits_with_1(service: RunningService, tmp_path: Path) -> None:
    path = a_file(tmp_path, rows=9)
    base_url = f"{service.url}/v1"

    watched = fettle("jobs", "create", str(path), "--model", "fettle-tiny", "--watch", base_url=base_url)

    job_id = next(line for line in watched.stdout.splitlines() if line.startswith("ftjob-"))
    assert watched.returncode == 1
    assert "must have at least 10 examples" in watched.stdout.splitlines()[-1]
    assert fettle("jobs", "watch", job_id, base_url=base_url).returncode == 1
    assert job_id in fettle("jobs", "list", base_url=base_url).stdout
    assert json.loads(fettle("jobs", "get", job_id, base_url=base_url).stdout)["status"] == "failed"
    assert "Validating training file" in fettle("jobs", "events", job_id, base_url=base_url).stdout
    assert "cannot" in fettle("jobs", "cancel", job_id, base_url=base_url).stderr


def test_an_uploaded_file_is_listed(service: RunningService, tmp_path: Path) -> None:
    base_url = f"{service.url}/v1"
    uploaded = fettle("files", "upload", str(a_file(tmp_path, rows=10)), base_url=base_url)
    file_id = uploaded.stdout.splitlines()[-1]
    assert file_id.startswith("file-")
    assert f"{file_id}\t" in fettle("files", "list", "--limit", "5", base_url=base_url).stdout


def test_models_are_listed(service: RunningService) -> None:
    assert "fettle-tiny\t" in fettle("models", "list", base_url=f"{service.url}/v1").stdout


def test_projects_and_keys_are_made_listed_and_ended(guarded_service: GuardedService) -> None:
    def operator(*arguments: str) -> subprocess.CompletedProcess[str]:
        return fettle(*arguments, base_url=f"{guarded_service.url}/v1", api_key=OPERATOR_KEY)

    project = operator("projects", "create", "support").stdout.strip()
    assert f"{project}\tactive\t" in operator("projects", "list").stdout

    made = operator("keys", "create", "--project", project, "--role", "reader", "--name", "nightly evaluation")

    key = made.stdout.rstrip("\n")  # what $(…) captures
    key_id = made.stderr.partition(":")[0]
    assert key.startswith("sk-fettle-")
    assert key not in made.stderr
    listed = operator("keys", "list", "--project", project).stdout.rstrip("\n").split("\t")
    assert listed == [key_id, "reader", project, f"sk-***{key[-4:]}", "", "", "nightly evaluation"]
    models = fettle("models", "list", base_url=f"{guarded_service.url}/v1", api_key=key)
    assert "fettle-tiny" in models.stdout
    assert operator("keys", "revoke", key_id).stdout == "revoked\n"
    refused = fettle("models", "list", base_url=f"{guarded_service.url}/v1", api_key=key)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "Incorrect API key provided" in refused.stderr
    assert operator("keys", "revoke", key_id).returncode == 1
    assert operator("projects", "archive", project).stdout == "archived\n"
    assert project not in operator("projects", "list").stdout
    assert f"{project}\tarchived\t" in operator("projects", "list", "--archived").stdout


def test_an_admin_key_is_made_and_expires(guarded_service: GuardedService) -> None:
    organization = guarded_service.new_organization()
    base_url = f"{guarded_service.url}/v1"
    options = ("--role", "admin", "--name", "ops", "--expires-in-seconds", "3600", "--organization", organization.id)
    made = fettle("keys", "create", *options, base_url=base_url, api_key=OPERATOR_KEY)
    key = made.stdout.strip()
    listed = [line.split("\t") for line in fettle("keys", "list", base_url=base_url, api_key=key).stdout.splitlines()]
    assert [(row[1], row[2], row[6]) for row in listed] == [("admin", "", "the first one"), ("admin", "", "ops")]
    assert listed[1][5], "when it expires"
    assert fettle("keys", "revoke", listed[0][0], base_url=base_url, api_key=key).returncode == 0
    assert fettle("models", "list", base_url=base_url, api_key=organization.admin_key).returncode == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--role", "writer"), "fettle projects list"),
        (("--role", "admin", "--project", "proj_x"), "whole organization"),
        (("--role", "owner", "--project", "proj_x"), "owner"),
    ],
)
def test_a_key_that_cannot_be_is_refused_before_it_is_asked_for(options: tuple[str, ...], told: str) -> None:
    refused = fettle("keys", "create", "--name", "k", *options)
    assert refused.returncode == 2
    assert told in refused.stderr
    assert refused.stdout == ""


def test_the_first_key_is_refused_in_words_that_a_person_can_follow(service: RunningService) -> None:
    options = ("--project", "proj_default", "--role", "writer", "--name", "too early")
    refused = fettle("keys", "create", *options, base_url=f"{service.url}/v1")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "Make an admin key first" in refused.stderr


def test_variables_of_another_service_are_not_sent(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "of-openai")
    assert "proj_default" in fettle("projects", "list", base_url=f"{service.url}/v1").stdout


@pytest.mark.parametrize("arguments", [("--help",), ("jobs", "--help"), ("keys", "--help"), ("demo", "--help")])
def test_help_needs_no_service(arguments: tuple[str, ...]) -> None:
    assert fettle(*arguments).returncode == 0
