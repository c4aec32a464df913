"""What is refused when a batch is created, and what is found in its input. No vLLM is started for any of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types import Batch

from service.batches.batches import MAX_INPUT_BYTES
from tests.fixtures.batches import CHAT, chat_request, chat_requests, create_batch, upload, wait_for_batch
from tests.fixtures.object_storage import new_bucket
from tests.fixtures.projects import GuardedService
from tests.fixtures.service import RunningService, keep_running, new_database


@pytest.fixture(scope="module", params=["sqlite and folder", "postgresql and s3"])
def answering(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedService]:
    """A service that would answer batches."""
    data_dir = tmp_path_factory.mktemp("batches") / "data"
    if request.param == "sqlite and folder":
        yield from _running(GuardedService(data_dir))
        return
    for bucket in new_bucket():
        yield from _running(GuardedService(data_dir, database_url=new_database(), **bucket.settings))


def _running(service: GuardedService) -> Iterator[GuardedService]:
    for _ in keep_running(service):
        yield service


def failed(service: GuardedService, lines: list[Any] | bytes, **options: Any) -> list[tuple[Any, ...]]:
    """The errors of a batch that cannot be run, as (code, line, param)."""
    batch = failed_batch(service, lines, **options)
    assert batch.errors is not None and batch.errors.data is not None
    assert all(error.message for error in batch.errors.data)
    return [(error.code, error.line, error.param) for error in batch.errors.data]


def failed_batch(service: GuardedService, lines: list[Any] | bytes, **options: Any) -> Batch:
    created = create_batch(service.client, lines, **options)
    batch = wait_for_batch(service, created.id)
    assert batch.status == "failed"
    return batch


def refused(client: OpenAI, **body: Any) -> dict[str, Any]:
    with pytest.raises(openai.BadRequestError) as error:
        client.post("/batches", body=body, cast_to=object)
    answer = error.value.response.json()
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    return dict(answer["error"])


def test_a_batch_starts_with_what_was_asked_for(answering: GuardedService) -> None:
    file_id = upload(answering.client, b"{\n")
    batch = answering.client.batches.create(
        input_file_id=file_id,
        endpoint="/v1/completions",
        completion_window="24h",
        metadata={"who": "tests"},
        output_expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (batch.object, batch.status, batch.endpoint) == ("batch", "validating", "/v1/completions")
    assert (batch.input_file_id, batch.completion_window, batch.metadata) == (file_id, "24h", {"who": "tests"})
    assert batch.expires_at == batch.created_at + 24 * 3600
    assert (batch.output_file_id, batch.error_file_id, batch.errors, batch.usage) == (None, None, None, None)
    assert batch.request_counts is not None
    assert batch.request_counts.to_dict() == {"total": 0, "completed": 0, "failed": 0}


def test_a_failed_batch_says_when_and_why_and_makes_no_files(answering: GuardedService) -> None:
    batch = failed_batch(answering, b'{"custom_id": \n')
    assert batch.failed_at is not None and batch.failed_at >= batch.created_at
    assert batch.errors is not None and batch.errors.object == "list" and batch.errors.data is not None
    assert [error.to_dict() for error in batch.errors.data] == [
        {
            "code": "invalid_json_line",
            "line": 1,
            "message": "This line is not parseable as valid JSON.",
            "param": None,
        }
    ]
    assert (batch.in_progress_at, batch.output_file_id, batch.error_file_id) == (None, None, None)


BAD_LINES: list[tuple[dict[str, Any], tuple[str, str]]] = [
    (chat_request("1") | {"custom_id": None}, ("invalid_type", "custom_id")),
    (chat_request("2") | {"custom_id": ""}, ("invalid_custom_id", "custom_id")),
    (chat_request("3") | {"custom_id": "x" * 513}, ("invalid_custom_id", "custom_id")),
    (chat_request("good"), ("duplicate_custom_id", "custom_id")),
    (chat_request("4") | {"method": "GET"}, ("invalid_method", "method")),
    (chat_request("5") | {"url": "/v1/completions"}, ("invalid_url", "url")),
    (chat_request("6") | {"body": "{}"}, ("invalid_type", "body")),
    (chat_request("7") | {"priority": "high"}, ("unknown_parameter", "priority")),
    (chat_request("8", model=None), ("invalid_request", "body.model")),
    (chat_request("9", model=7), ("invalid_type", "body.model")),
    (chat_request("10", model="other"), ("mismatched_model", "body.model")),
    (chat_request("11", messages=None), ("invalid_request", "body.messages")),
    (chat_request("12", messages="hello"), ("invalid_type", "body.messages")),
    (chat_request("13", stream=True), ("streaming_unsupported", "body.stream")),
    (chat_request("14", stream="yes"), ("streaming_unsupported", "body.stream")),
    (chat_request("15", stream_options={"include_usage": True}), ("streaming_unsupported", "body.stream_options")),
    *[
        ({key: value for key, value in chat_request(f"no-{name}").items() if key != name}, (code, name))
        for code, name in (("missing_required_parameter", each) for each in ("custom_id", "method", "url", "body"))
    ],
]


def test_every_bad_line_fails_the_batch_and_is_named(answering: GuardedService) -> None:
    errors = failed(answering, [chat_request("good"), *[line for line, _ in BAD_LINES]])
    assert errors == [(code, number, param) for number, (_, (code, param)) in enumerate(BAD_LINES, start=2)]


def test_every_line_that_is_no_object_fails_the_batch(answering: GuardedService) -> None:
    lines = [
        b"[]",
        b'"text"',
        b"7",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b'{"a": "\\ud800"}',
        b"[" * 10_000,
    ]
    errors = failed(answering, b"\n\n" + b"\n".join(lines))
    assert errors == [("invalid_json_line", number, None) for number in range(3, 3 + len(lines))]


@pytest.mark.parametrize("model", ["gpt-17", "../fettle-tiny", "a\0b"])
def test_a_model_that_does_not_exist_fails_the_batch(answering: GuardedService, model: str) -> None:
    assert failed(answering, [chat_request("only", model=model)]) == [("model_not_found", 1, "body.model")]


@pytest.mark.parametrize("content", [b"", b"\n \r\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_requests_fails_the_batch(answering: GuardedService, content: bytes) -> None:
    assert failed(answering, content) == [("empty_file", None, None)]


def test_a_line_for_the_other_endpoint_is_checked_by_that_ones_rules(answering: GuardedService) -> None:
    line = chat_request("1") | {"url": "/v1/completions"}
    assert failed(answering, [line], endpoint="/v1/completions") == [("invalid_request", 1, "body.prompt")]


def test_only_the_first_errors_are_listed_and_the_others_counted(answering: GuardedService) -> None:
    batch = failed_batch(answering, b"{\n" * 250)
    assert batch.errors is not None and batch.errors.data is not None
    assert [error.line for error in batch.errors.data] == [*range(1, 101), None]
    assert batch.errors.data[-1].message == "There are 150 more errors in this file."


def test_too_many_requests_fail_the_batch(answering: GuardedService) -> None:
    lines = chat_requests(50_001, messages=[])
    [error] = failed(answering, lines)
    assert error == ("too_many_tasks", 50_001, None)


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"input_file_id": None}, "input_file_id", "string"),
        ({"input_file_id": "file-short"}, "input_file_id", "Invalid File Name"),
        ({"input_file_id": "file-../../etc/passwd00"}, "input_file_id", "Invalid File Name"),
        ({"input_file_id": "file-" + "0" * 22}, "input_file_id", "does not exist"),
        ({"endpoint": "/v1/embeddings"}, "endpoint", "'/v1/chat/completions' or '/v1/completions'"),
        ({"endpoint": "/v1/responses"}, "endpoint", "'/v1/responses'"),
        ({"completion_window": "1h"}, "completion_window", "'24h'"),
        ({"metadata": {str(number): "v" for number in range(17)}}, "metadata", "16"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "64"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "512"),
        ({"metadata": {"k": ["v"]}}, "metadata.k", "string"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, "output_expires_after.seconds", "3600"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 2_592_001}},
            "output_expires_after.seconds",
            "2592000",
        ),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor", "created_at"),
        ({"output_expires_after": {"seconds": 3600}}, "output_expires_after.anchor", "Missing"),
        ({"priority": "high"}, "priority", "Unknown parameter"),
    ],
)
def test_a_bad_field_is_refused_by_name(
    answering: GuardedService, change: dict[str, Any], param: str, words: str
) -> None:
    body = {"input_file_id": upload(answering.client, b"{"), "endpoint": CHAT, "completion_window": "24h"} | change
    error = refused(answering.client, **body)
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("name", ["input_file_id", "endpoint", "completion_window"])
def test_a_missing_parameter_is_refused_by_name(answering: GuardedService, name: str) -> None:
    body = {"input_file_id": "file-" + "0" * 22, "endpoint": CHAT, "completion_window": "24h"}
    del body[name]
    assert refused(answering.client, **body)["message"] == f"Missing required parameter: '{name}'."


def test_a_file_for_something_else_or_deleted_is_refused(answering: GuardedService) -> None:
    body = {"endpoint": CHAT, "completion_window": "24h"}
    file_id = answering.upload(b"{}\n", purpose="fine-tune")
    assert "purpose 'fine-tune'" in refused(answering.client, input_file_id=file_id, **body)["message"]
    deleted = upload(answering.client, b"{}\n")
    answering.client.files.delete(deleted)
    assert "was deleted" in refused(answering.client, input_file_id=deleted, **body)["message"]


def test_a_file_over_the_limit_is_refused(answering: GuardedService, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(MAX_INPUT_BYTES + 1)
    with path.open("rb") as file:
        file_id = answering.client.files.create(file=file, purpose="batch").id
    error = refused(answering.client, input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    assert "200,000,000" in error["message"]
    answering.client.files.delete(file_id)


def test_batches_are_listed_newest_first_page_by_page(answering: GuardedService) -> None:
    client = answering.new_organization().client
    made = [create_batch(client, b"{").id for _ in range(5)]
    page = client.batches.list(limit=2)
    assert [batch.id for batch in page.data] == [made[4], made[3]]
    assert page.has_more
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    for empty in (client.batches.list(after="batch_unknown"), client.batches.list(limit=0)):
        assert (empty.data, empty.has_more) == ([], False)
    raw = answering.send("GET", "/batches?limit=101")
    assert raw.status_code == 400
    assert raw.json()["error"]["param"] == "limit"


@pytest.mark.parametrize("batch_id", ["batch_", "batch_" + "0" * 32, "file-" + "0" * 22, "%2e%2e", "batch_" + "g" * 32])
def test_an_unknown_batch_is_not_found(answering: GuardedService, batch_id: str) -> None:
    for method, path in (("GET", f"/batches/{batch_id}"), ("POST", f"/batches/{batch_id}/cancel")):
        answer = answering.send(method, path)
        assert answer.status_code == 404
        assert answer.json()["error"]["param"] == "batch_id"


def test_another_projects_batches_files_and_models_do_not_exist(answering: GuardedService) -> None:
    ours, theirs = answering.new_organization(), answering.new_organization()
    batch = create_batch(theirs.client, b"{")
    for call in (ours.client.batches.retrieve, ours.client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call(batch.id)
    assert ours.client.batches.list().data == []
    assert ours.client.batches.list(after=batch.id).data == []
    body = {"input_file_id": batch.input_file_id, "endpoint": CHAT, "completion_window": "24h"}
    assert "does not exist" in refused(ours.client, **body)["message"]

    model = answering.add_tuned_model(theirs.project_id, theirs.name).name
    created = create_batch(ours.client, [chat_request("1", model=model)])
    ended = wait_for_batch(answering, created.id, client=ours.client)
    assert ended.errors is not None and ended.errors.data is not None
    [error] = ended.errors.data
    assert (error.code, error.line, error.param) == ("model_not_found", 1, "body.model")


def test_a_reader_sees_batches_and_makes_none(answering: GuardedService) -> None:
    organization = answering.new_organization()
    batch = create_batch(organization.client, b"{")
    key = answering.create_project_key(organization.project_id, "reader", organization.admin_key)["value"]
    reader = answering.client_with(key)
    assert reader.batches.retrieve(batch.id).id == batch.id
    with pytest.raises(openai.PermissionDeniedError):
        reader.batches.cancel(batch.id)
    with pytest.raises(openai.PermissionDeniedError):
        reader.batches.create(
            input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
        )


def test_a_batch_that_failed_cannot_be_cancelled(answering: GuardedService) -> None:
    batch = failed_batch(answering, b"{")
    with pytest.raises(openai.ConflictError) as error:
        answering.client.batches.cancel(batch.id)
    assert "Cannot cancel a batch with status 'failed'." in error.value.message
    assert error.value.response.headers["x-should-retry"] == "false"


def test_where_nothing_is_served_a_batch_is_refused_with_the_reason(service: RunningService) -> None:
    file_id = upload(service.client, chat_requests(1))
    error = refused(service.client, input_file_id=file_id, endpoint=CHAT, completion_window="24h")
    assert "FETTLE_SERVING=off" in error["message"]
    assert service.client.batches.list().data == []
