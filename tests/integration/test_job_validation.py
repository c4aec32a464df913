"""A file that cannot be trained on fails the job, never the request, and the job says which row, which field, why."""

import json
from typing import Any

import pytest

from tests.fixtures.rows import chat_row, chat_rows, to_jsonl
from tests.fixtures.service import RunningService


def with_row(row: object, *, at: int = 4) -> bytes:
    """Twelve rows, of which number `at` (from 1) is the given one."""
    rows: list[object] = [*chat_rows(12)]
    rows[at - 1] = row
    return to_jsonl(rows)


def failed(service: RunningService, training: bytes, validation: bytes | None = None) -> Any:
    job = service.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=service.upload(training),
        validation_file=service.upload(validation) if validation is not None else None,
    )
    assert job.status == "validating_files"
    assert job.error is None
    ended = service.wait_for_job(job.id)
    assert ended.status == "failed", service.describe(job.id)
    assert ended.error is not None
    assert ended.finished_at is not None
    last_event = service.events(job.id)[-1]
    assert (last_event.level, last_event.message) == ("error", ended.error.message)
    return ended.error


USER = {"role": "user", "content": "Hello"}
ASSISTANT = {"role": "assistant", "content": "Hi"}


@pytest.mark.parametrize(
    ("content", "code", "mentions"),
    [
        (b"", "invalid_n_examples", ["empty"]),
        (to_jsonl(chat_rows(9)), "invalid_n_examples", ["has 9 example(s), but must have at least 10 examples"]),
        (with_row(chat_row()).replace(b"sky", b"\xff\xfe"), "invalid_training_file", ["Row 4", "UTF-8"]),
        (to_jsonl(chat_rows(11)) + b'{"messages": [\n', "invalid_training_file", ["Row 12", "JSON"]),
        (with_row({"text": "no messages"}), "invalid_training_file", ["Row 4", "messages"]),
        (with_row({"messages": []}), "invalid_training_file", ["Row 4", "messages"]),
        (
            with_row({"messages": [{"role": "usr", "content": "x"}, ASSISTANT]}),
            "invalid_training_file",
            ["Row 4", "messages[0].role", "usr"],
        ),
        (with_row({"messages": [USER]}), "invalid_training_file", ["Row 4", "assistant"]),
        (with_row({"messages": [USER, ASSISTANT | {"weight": 2}]}), "invalid_training_file", ["Row 4", "weight"]),
        (with_row({"messages": [USER, ASSISTANT | {"weight": 0}]}), "invalid_training_file", ["Row 4", "weight"]),
        (with_row({"prompt": "a", "completion": 7}), "invalid_training_file", ["Row 4", "completion"]),
        (
            with_row({"input": {}, "preferred_output": []}),
            "invalid_training_file",
            ["Row 4", "the methods dpo and orpo"],
        ),
        (with_row(["not", "an", "object"]), "invalid_training_file", ["Row 4", "object"]),
    ],
)
def test_a_bad_training_file_fails_the_job_with_row_and_remedy(
    service: RunningService, content: bytes, code: str, mentions: list[str]
) -> None:
    error = failed(service, content)
    assert (error.code, error.param) == (code, "training_file")
    for words in mentions:
        assert words in error.message


def test_a_bad_validation_file_is_named_as_such(service: RunningService) -> None:
    error = failed(service, to_jsonl(chat_rows(10)), with_row({"messages": [USER]}))
    assert (error.code, error.param) == ("invalid_validation_file", "validation_file")
    assert error.message.startswith("Validation file")


def test_all_bad_rows_are_listed_at_once(service: RunningService) -> None:
    rows: list[object] = [*chat_rows(12)]
    rows[1] = {"messages": [USER]}
    rows[10] = {"messages": "nothing"}
    message = failed(service, to_jsonl(rows)).message
    assert "Row 2" in message
    assert "Row 11" in message


def test_a_row_longer_than_the_context_is_cut_or_left_out_and_the_receipt_says_which(service: RunningService) -> None:
    rows = chat_rows(12)
    rows[2] = chat_row(answer="A long answer. " * 2000)
    rows[5] = chat_row(question="A long question? " * 2000)
    job = service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=service.upload(to_jsonl(rows)))
    service.wait_for_job(job.id, until=lambda job: job.status not in ("validating_files",))
    service.client.fine_tuning.jobs.cancel(job.id)
    receipt = next(event for event in service.events(job.id) if "receipt" in event.message)
    assert receipt.level == "warn"
    data: dict[str, Any] = json.loads(json.dumps(receipt.data))
    assert data["cut_rows"] == [3]
    assert data["dropped_rows"] == [6]
    assert (data["rows"], data["trained_rows"]) == (12, 11)


def test_auto_hyperparameters_become_numbers_once_the_rows_are_known(service: RunningService) -> None:
    job = service.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=service.upload(to_jsonl(chat_rows(40))),
        hyperparameters={"batch_size": 3},
        method={"type": "supervised", "supervised": {"hyperparameters": {"learning_rate_multiplier": 0.5}}},
    )
    assert job.hyperparameters.n_epochs == "auto"
    job = service.wait_for_job(job.id, until=lambda job: job.status != "validating_files")
    service.client.fine_tuning.jobs.cancel(job.id)
    # 40 rows: three epochs are more than 100 examples already
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (3, 3)
    assert job.hyperparameters.learning_rate_multiplier == 0.5
    assert job.method is not None
    assert job.method.supervised is not None
    assert job.method.supervised.hyperparameters is not None
    assert job.method.supervised.hyperparameters.n_epochs == 3
