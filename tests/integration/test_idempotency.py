"""A POST that is sent again with its `Idempotency-Key` makes nothing twice and gets the first one's answer."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import Session

from service.database.tables import IdempotencyKeyRow
from tests.fixtures.projects import GuardedService, Organization
from tests.fixtures.service import RunningService, StartService, wait_until

JOBS = "/v1/fine_tuning/jobs"


def create_job(service: RunningService, key: str, file_id: str, **fields: Any) -> httpx.Response:
    body = {"model": "fettle-tiny", "training_file": file_id} | fields
    return httpx.post(service.url + JOBS, json=body, headers={"idempotency-key": key}, timeout=60)


def upload(service: RunningService, key: str, content: bytes, **fields: Any) -> httpx.Response:
    data = {"purpose": "fine-tune"} | fields
    files = {"file": ("rows.jsonl", content)}
    return httpx.post(f"{service.url}/v1/files", data=data, files=files, headers={"idempotency-key": key}, timeout=60)


def jobs_of(service: RunningService, file_id: str) -> list[str]:
    return [job.id for job in service.client.fine_tuning.jobs.list(limit=1000) if job.training_file == file_id]


def test_a_repeated_job_is_the_first_one(service: RunningService) -> None:
    key, file_id = str(uuid4()), service.upload(b"{}\n")
    first = create_job(service, key, file_id)
    assert first.status_code == 200
    assert "idempotent-replayed" not in first.headers
    service.wait_for_job(first.json()["id"])  # it has another state by now; the answer is still the first one's
    again = create_job(service, key, file_id)
    assert (again.status_code, again.headers["idempotent-replayed"]) == (200, "true")
    assert again.content == first.content
    assert again.headers["content-type"] == "application/json"
    assert jobs_of(service, file_id) == [first.json()["id"]]


def test_two_creates_at_once_make_one_job(service: RunningService) -> None:
    key, file_id = str(uuid4()), service.upload(b"{}\n")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: create_job(service, key, file_id), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len(jobs_of(service, file_id)) == 1


def test_the_same_key_with_another_request_is_refused_and_not_retried(service: RunningService) -> None:
    key, file_id = str(uuid4()), service.upload(b"{}\n")
    first = create_job(service, key, file_id).json()["id"]
    for answer in (
        create_job(service, key, file_id, seed=7),
        httpx.post(f"{service.url}{JOBS}/{first}/cancel", headers={"idempotency-key": key}),
        upload(service, key, b"{}\n"),
    ):
        assert answer.status_code == 409
        assert answer.headers["x-should-retry"] == "false"
        assert answer.json()["error"]["code"] == "idempotency_key_in_use"
    assert jobs_of(service, file_id) == [first]
    with pytest.raises(openai.ConflictError, match="another request"):
        service.client.with_options(max_retries=2).fine_tuning.jobs.create(
            model="fettle-tiny", training_file=file_id, seed=8, extra_headers={"Idempotency-Key": key}
        )


def test_a_refused_request_leaves_its_key_free(service: RunningService) -> None:
    key, file_id = str(uuid4()), service.upload(b"{}\n")
    assert create_job(service, key, file_id, seed=-1).status_code == 400
    assert create_job(service, key, "file-" + "x" * 22).status_code == 400
    assert create_job(service, key, file_id).status_code == 200


def test_without_a_key_every_request_makes_one(service: RunningService) -> None:
    file_id = service.upload(b"{}\n")
    for _ in range(2):
        service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file_id)
    assert len(jobs_of(service, file_id)) == 2


def test_a_repeated_upload_is_the_first_file_and_leaves_no_second_one(service: RunningService) -> None:
    key, content = str(uuid4()), uuid4().bytes * 1000
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: upload(service, key, content), range(4)))
    assert [answer.status_code for answer in answers] == [200] * 4
    [file_id] = {answer.json()["id"] for answer in answers}
    assert service.client.files.content(file_id).read() == content
    assert upload(service, key, content + b"x").status_code == 409
    assert upload(service, key, content, purpose="evals").status_code == 409

    assert upload(service, str(uuid4()), content).json()["id"] != file_id
    wait_until(lambda: copies_of(service, content) == 2, 60, "the bytes of refused or repeated uploads stayed")


def copies_of(service: RunningService, content: bytes) -> int:
    files = [path for path in (service.data_dir / "objects").rglob("*") if path.is_file()]
    return sum(content in path.read_bytes() for path in files if path.stat().st_size >= len(content))


@pytest.mark.parametrize("key", ["", "ä", "x" * 256])
def test_a_key_that_cannot_be_is_refused_by_its_header(service: RunningService, key: str) -> None:
    headers = {"idempotency-key": key.encode()}
    answer = httpx.post(f"{service.url}/v1/organization/projects", json={"name": "p"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize("key", ["x", "x" * 255, 'a b;c="d"'])
def test_a_key_within_its_limits_is_taken(service: RunningService, key: str) -> None:
    headers = {"idempotency-key": key}
    answers = [
        httpx.post(f"{service.url}/v1/organization/projects", json={"name": "p"}, headers=headers) for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()


def test_what_does_something_each_time_says_so(service: RunningService) -> None:
    path = f"/v1/webhook_endpoints/we_{'a' * 24}/test"
    body = {"event_type": "fine_tuning.job.succeeded"}
    answer = httpx.post(service.url + path, json=body, headers={"idempotency-key": "k"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/fine_tuning/alpha/graders/validate", {"grader": {}}),
        ("/v1/chat/completions", {"model": "fettle-tiny", "messages": []}),
    ],
)
def test_what_makes_nothing_takes_any_key(service: RunningService, path: str, body: dict[str, Any]) -> None:
    for content in (body, {**body, "other": 1}):
        answer = httpx.post(service.url + path, json=content, headers={"idempotency-key": "k"})
        assert answer.json()["error"]["param"] != "Idempotency-Key"


def test_a_key_is_a_projects_own(organization: Organization, guarded_service: GuardedService) -> None:
    headers = {"idempotency-key": str(uuid4())}
    made = []
    for project_id in (organization.project_id, organization.new_project()):
        key = organization.key(project_id)
        body = {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"}
        answer = guarded_service.send("POST", "/uploads", key, json=body, headers=headers)
        assert "idempotent-replayed" not in answer.headers
        made.append(answer.json()["id"])
    assert made[0] != made[1]


def test_a_secret_is_neither_kept_nor_told_again(organization: Organization, guarded_service: GuardedService) -> None:
    key = str(uuid4())
    headers = {"idempotency-key": key}
    made = guarded_service.create_project_key(
        organization.project_id, "reader", organization.admin_key, headers=headers
    )
    path = f"/organization/projects/{organization.project_id}/api_keys"
    body = {"name": "a reader", "role": "reader"}
    again = guarded_service.send("POST", path, organization.admin_key, json=body, headers=headers)
    assert again.status_code == 409
    assert "not kept" in again.json()["error"]["message"]
    engine = create_engine(guarded_service.database_url)
    with Session(engine) as session:
        kept = session.scalars(select(IdempotencyKeyRow).where(IdempotencyKeyRow.key == key)).one()
        assert (kept.status, kept.answer) == (200, None)
    engine.dispose()
    assert made["value"] not in again.text


def test_a_key_is_free_again_after_a_day(guarded_service: GuardedService, organization: Organization) -> None:
    headers, body = {"idempotency-key": str(uuid4())}, {"name": "p"}

    def create() -> httpx.Response:
        path = "/organization/projects"
        return guarded_service.send("POST", path, organization.admin_key, json=body, headers=headers)

    first = create()
    engine = create_engine(guarded_service.database_url)
    for age, is_same in ((23.9 * 3600, True), (24.1 * 3600, False)):
        with Session(engine) as session, session.begin():
            mine = IdempotencyKeyRow.key == headers["idempotency-key"]
            session.execute(update(IdempotencyKeyRow).where(mine).values(created_at=time.time() - age))
        assert (create().json()["id"] == first.json()["id"]) is is_same
    engine.dispose()


def test_old_keys_are_swept(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(tmp_path / "data", serving="off")
    for key in ("old", "new"):
        httpx.post(f"{service.url}/v1/organization/projects", json={"name": key}, headers={"idempotency-key": key})
    engine = create_engine(f"sqlite:///{service.data_dir / 'fettle.db'}")
    with Session(engine) as session, session.begin():
        old = IdempotencyKeyRow.key == "old"
        session.execute(update(IdempotencyKeyRow).where(old).values(created_at=time.time() - 25 * 3600))
    service.restart()

    def keys() -> list[str]:
        with Session(engine) as session:
            return list(session.scalars(select(IdempotencyKeyRow.key)))

    wait_until(lambda: keys() == ["new"], 30, "the old key was not swept")
    engine.dispose()


def test_a_kill_between_leaves_a_job_with_its_key_or_neither(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(tmp_path / "data", serving="off")
    file_id = service.upload(b"{}\n")
    for delay in (0.0, 0.005, 0.02):
        key = str(uuid4())
        before = len(jobs_of(service, file_id))
        with ThreadPoolExecutor(1) as threads:
            sent = threads.submit(create_job, service, key, file_id)
            time.sleep(delay)  # when the kill comes is what is tried here
            service.kill()
            answered = sent.exception() is None
        service.start()
        made = len(jobs_of(service, file_id)) - before
        again = create_job(service, key, file_id)
        assert again.status_code == 200
        assert ("idempotent-replayed" in again.headers) == (made == 1)
        assert not (answered and made == 0)
        assert len(jobs_of(service, file_id)) == before + 1
