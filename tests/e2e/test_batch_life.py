"""Batches on a real vLLM: how they end, and that every request is answered exactly once whatever happens."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch
from sqlalchemy import NullPool, create_engine, update

from service.batches.repository import LOCK_TIME
from service.database.tables import BatchRow
from tests.fixtures.batches import (
    chat_request,
    chat_requests,
    create_batch,
    custom_ids,
    lines_of,
    wait_for_batch,
)
from tests.fixtures.object_storage import S3Bucket, new_bucket
from tests.fixtures.projects import GuardedService
from tests.fixtures.service import RunningService, StartService, keep_running, new_database, wait_until
from tests.fixtures.webhook_receiver import WebhookReceiver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system"),
]

VLLM_SECONDS = 300  # its start, on a machine that does other things too
MANY = 400
SLOW = {"max_tokens": 64, "ignore_eos": True}
"""So that a batch of many is still running when a test gets to it."""


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedService]:
    folder = tmp_path_factory.mktemp("batches")
    service = GuardedService(folder / "data", serving_wait="PT300S", webhook_allow_private="true")
    for _ in keep_running(service):
        yield service


@pytest.fixture
def bucket() -> Iterator[S3Bucket]:
    yield from new_bucket()


def expected_ids(count: int) -> Counter[str]:
    return Counter(f"request-{number}" for number in range(count))


def wait_until_midway(service: RunningService, batch_id: str, *, answered: int = 0) -> int:
    """More than `answered` requests are answered, and many are not. Returns how many are."""
    seen: list[Batch] = []

    def goes_on() -> bool:
        seen[:] = [service.client.batches.retrieve(batch_id)]
        return completed(seen[0]) > answered

    wait_until(goes_on, VLLM_SECONDS, f"{batch_id} answered nothing", lambda: service.log[-3000:])
    assert seen[0].status == "in_progress", "it was too fast for this test"
    return completed(seen[0])


def completed(batch: Batch) -> int:
    assert batch.request_counts is not None
    return batch.request_counts.completed


def results_of(service: RunningService, batch: Batch) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines of the output and the error file. Each request is one of them, and the counts say so."""
    output, errors = lines_of(service.client, batch.output_file_id), lines_of(service.client, batch.error_file_id)
    counts = batch.request_counts
    assert counts is not None
    assert (counts.completed, counts.failed, counts.total) == (len(output), len(errors), len(output) + len(errors))
    assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in output)
    return output, errors


def change_row(service: RunningService, batch_id: str, **values: Any) -> None:
    engine = create_engine(service.database_url, poolclass=NullPool)
    with engine.begin() as connection:
        assert connection.execute(update(BatchRow).where(BatchRow.id == batch_id).values(**values)).rowcount == 1
    engine.dispose()


def test_a_batch_answers_every_request_as_if_it_had_been_sent_by_itself(serving: GuardedService) -> None:
    requests = chat_requests(20)
    created = create_batch(serving.client, requests, metadata={"who": "tests"})
    batch = wait_for_batch(serving, created.id, timeout=VLLM_SECONDS)
    assert batch.status == "completed", serving.log[-3000:]
    assert (batch.model, batch.metadata, batch.error_file_id) == ("fettle-tiny", {"who": "tests"}, None)
    times = (batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at)
    assert None not in times and list(times) == sorted(times)  # type: ignore[type-var]

    output, _ = results_of(serving, batch)
    assert custom_ids(output) == expected_ids(20)
    line = next(line for line in output if line["custom_id"] == "request-3")
    assert line["id"].startswith("batch_req_")
    assert line["response"]["request_id"].startswith("req_")
    alone = serving.client.chat.completions.create(**requests[3]["body"])
    assert line["response"]["body"]["choices"][0]["message"]["content"] == alone.choices[0].message.content
    assert line["response"]["body"]["model"] == "fettle-tiny"

    usage = [line["response"]["body"]["usage"] for line in output]
    assert batch.usage is not None
    assert batch.usage.input_tokens == sum(each["prompt_tokens"] for each in usage)
    assert batch.usage.output_tokens == sum(each["completion_tokens"] for each in usage) > 0
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens


def test_its_files_are_named_and_kept_as_was_asked(serving: GuardedService) -> None:
    keep = {"anchor": "created_at", "seconds": 7200}
    lines = [chat_request("good"), chat_request("bad", temperature=-1)]
    kept = wait_for_batch(serving, create_batch(serving.client, lines, output_expires_after=keep).id)
    default = wait_for_batch(serving, create_batch(serving.client, lines[:1]).id)
    for file_id, filename, seconds in (
        (kept.output_file_id, f"{kept.id}_output.jsonl", 7200),
        (kept.error_file_id, f"{kept.id}_error.jsonl", 7200),
        (default.output_file_id, f"{default.id}_output.jsonl", 30 * 24 * 3600),
    ):
        assert file_id is not None
        file = serving.client.files.retrieve(file_id)
        assert (file.filename, file.purpose) == (filename, "batch_output")
        assert file.expires_at == pytest.approx(file.created_at + seconds, abs=1)
        assert file.id in [each.id for each in serving.client.files.list(purpose="batch_output")]


def test_a_request_that_is_refused_is_a_line_of_the_error_file_and_the_others_go_on(serving: GuardedService) -> None:
    lines = [
        chat_request("good"),
        chat_request("cold", temperature=-1),
        chat_request("long", max_tokens=1_000_000),
        chat_request("template", chat_template="{{ 1 }}"),
        chat_request("overflow") | {"body": chat_request("")["body"] | {"seed": 10**300}},
        chat_request("image", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
    ]
    batch = wait_for_batch(serving, create_batch(serving.client, lines).id)
    assert batch.status == "completed"
    output, errors = results_of(serving, batch)
    assert custom_ids(output) == {"good": 1}
    assert custom_ids(errors) == {"cold": 1, "long": 1, "template": 1, "overflow": 1, "image": 1}
    for line in errors:
        assert line["error"] is None
        assert line["response"]["status_code"] == 400, line
        assert set(line["response"]["body"]["error"]) == {"message", "type", "param", "code"}
    params = {line["custom_id"]: line["response"]["body"]["error"]["param"] for line in errors}
    assert params["template"] == "chat_template"


def test_completions_are_answered_too(serving: GuardedService) -> None:
    line = {
        "custom_id": "ä" * 512,
        "method": "POST",
        "url": "/v1/completions",
        "body": {"model": "fettle-tiny", "prompt": "The lamp in the", "max_tokens": 4},
    }
    created = create_batch(serving.client, [line], endpoint="/v1/completions")
    [answer], _ = results_of(serving, wait_for_batch(serving, created.id))
    assert answer["custom_id"] == "ä" * 512
    assert answer["response"]["body"]["object"] == "text_completion"


def test_a_cancelled_batch_keeps_what_was_answered_and_names_the_rest(serving: GuardedService) -> None:
    created = create_batch(serving.client, chat_requests(MANY, **SLOW))
    wait_until_midway(serving, created.id)
    cancelling = serving.client.batches.cancel(created.id)
    assert (cancelling.status, cancelling.cancelling_at is not None) == ("cancelling", True)
    batch = wait_for_batch(serving, created.id)
    assert batch.status == "cancelled"
    assert batch.cancelled_at is not None
    assert (batch.completed_at, batch.finalizing_at) == (None, None)
    output, errors = results_of(serving, batch)
    assert output and errors
    assert custom_ids(output + errors) == expected_ids(MANY)
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    assert {line["response"] for line in errors} == {None}
    assert serving.client.batches.cancel(created.id).status == "cancelled", "cancelling it again changes nothing"


def test_a_batch_that_has_ended_cannot_be_cancelled(serving: GuardedService) -> None:
    created = create_batch(serving.client, chat_requests(1))
    assert wait_for_batch(serving, created.id).status == "completed"
    with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status 'completed'"):
        serving.client.batches.cancel(created.id)


def test_a_batch_whose_window_ends_keeps_what_was_answered(serving: GuardedService) -> None:
    created = create_batch(serving.client, chat_requests(MANY, **SLOW))
    wait_until_midway(serving, created.id)
    change_row(serving, created.id, expires_at=created.created_at)
    batch = wait_for_batch(serving, created.id)
    assert batch.status == "expired"
    assert batch.expired_at is not None
    output, errors = results_of(serving, batch)
    assert output and errors
    assert custom_ids(output + errors) == expected_ids(MANY)
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}


def test_a_model_that_is_deleted_meanwhile_is_not_found_from_then_on(serving: GuardedService) -> None:
    organization = serving.new_organization()
    model = serving.add_tuned_model(organization.project_id, organization.name).name
    created = create_batch(organization.client, chat_requests(3, model=model))
    organization.client.models.delete(model)
    batch = wait_for_batch(serving, created.id, client=organization.client)
    if batch.status == "failed":  # it was deleted before the input was checked
        assert batch.errors is not None and batch.errors.data is not None
        assert batch.errors.data[0].code == "model_not_found"
        return
    errors = lines_of(organization.client, batch.error_file_id)
    assert custom_ids(errors) == expected_ids(3)
    assert {line["response"]["body"]["error"]["code"] for line in errors} == {"model_not_found"}
    assert {line["response"]["status_code"] for line in errors} == {404}


def test_the_input_file_may_be_deleted_while_the_batch_runs(serving: GuardedService) -> None:
    created = create_batch(serving.client, chat_requests(MANY, **SLOW))
    wait_until_midway(serving, created.id)
    serving.client.files.delete(created.input_file_id)
    batch = wait_for_batch(serving, created.id, timeout=VLLM_SECONDS)
    output, _ = results_of(serving, batch)
    assert (batch.status, custom_ids(output)) == ("completed", expected_ids(MANY))


def test_requests_of_the_moment_are_answered_while_a_batch_runs(serving: GuardedService) -> None:
    created = create_batch(serving.client, chat_requests(MANY, **SLOW))
    wait_until_midway(serving, created.id)
    body = chat_request("now")["body"]
    assert serving.client.with_options(timeout=30).chat.completions.create(**body).choices
    assert serving.client.batches.cancel(created.id).status == "cancelling", "the batch ended before the answer came"
    wait_for_batch(serving, created.id)


def test_after_kills_of_the_service_and_of_vllm_every_request_is_answered_exactly_once(serving: GuardedService) -> None:
    created = create_batch(serving.client, chat_requests(MANY, **SLOW))
    answered = wait_until_midway(serving, created.id)
    serving.restart()
    assert completed(serving.client.batches.retrieve(created.id)) >= answered, "what was recorded was lost"
    wait_until_midway(serving, created.id, answered=answered)
    kill_vllm(serving)
    batch = wait_for_batch(serving, created.id, timeout=VLLM_SECONDS)
    assert batch.status == "completed"
    output, errors = results_of(serving, batch)
    assert custom_ids(output) == expected_ids(MANY)
    assert errors == []


def kill_vllm(service: RunningService) -> None:
    for pid_file in (service.data_dir / "serving").rglob("pid"):
        os.killpg(int(pid_file.read_text()), signal.SIGKILL)


def test_an_ended_batch_leaves_only_its_files_in_storage(serving: GuardedService) -> None:
    batch = wait_for_batch(serving, create_batch(serving.client, chat_requests(3)).id)
    folder = serving.data_dir / "objects" / "batches" / batch.id
    wait_until(lambda: not folder.exists(), 40, "the sweeper left something", lambda: str(list(folder.rglob("*"))))
    assert len(lines_of(serving.client, batch.output_file_id)) == 3


def test_the_end_of_a_batch_is_told_to_webhooks(serving: GuardedService, receiver: WebhookReceiver) -> None:
    types = ["batch.completed", "batch.failed", "batch.cancelled", "batch.expired"]
    body = {"name": "batches", "url": f"{receiver.url}/", "event_types": types}
    assert serving.send("POST", "/webhook_endpoints", json=body).status_code == 200
    completed = wait_for_batch(serving, create_batch(serving.client, chat_requests(1)).id)
    failed = wait_for_batch(serving, create_batch(serving.client, b"{").id)
    told = {("batch.completed", completed.id), ("batch.failed", failed.id)}
    events = [json.loads(received.body) for received in receiver.wait_for("/", 2)]
    assert {(event["type"], event["data"]["id"]) for event in events} == told


def test_two_services_share_a_database_and_one_of_them_runs_a_batch(
    start_service: StartService, bucket: S3Bucket, tmp_path: Path
) -> None:
    shared = {"database_url": new_database(), "serving_wait": "PT300S"} | bucket.settings
    first = start_service(tmp_path / "first", **shared)
    created = create_batch(first.client, chat_requests(MANY, **SLOW))
    second = start_service(tmp_path / "second", **shared)
    wait_until_midway(second, created.id)
    assert second.client.batches.retrieve(created.id).status == "in_progress"
    assert not (second.data_dir / "serving").exists(), "it ran a batch that the other one runs"
    second.stop()  # or it would take over, with a vLLM of its own, for which this machine is too small

    first.kill()
    first.start()  # to the database it is a stranger, who has to wait until the dead one's lock runs out
    batch = wait_for_batch(first, created.id, timeout=LOCK_TIME.total_seconds() + VLLM_SECONDS)
    output, errors = results_of(first, batch)
    assert (batch.status, errors) == ("completed", [])
    assert custom_ids(output) == expected_ids(MANY)
