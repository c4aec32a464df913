"""What a job will train on is told before it trains: `GET …/receipt`, and a warning for everything that looks wrong."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa

from service.database.tables import JobRow
from tests.fixtures.rows import chat_row, chat_rows, to_jsonl
from tests.fixtures.service import RunningService, StartService, wait_until


def validated(service: RunningService, training: bytes, validation: bytes | str | None = None, **more: Any) -> Any:
    """A job that is held once its files are validated. `validation`: a file, or the id of one."""
    training_file = service.upload(training)
    if isinstance(validation, bytes):
        validation = service.upload(validation)
    elif validation == "same":
        validation = training_file
    return hold(service, training_file=training_file, validation_file=validation, **more)


def hold(service: RunningService, **asked: Any) -> Any:
    """As `validated`, or failed."""
    job = service.client.fine_tuning.jobs.create(model="fettle-tiny", **asked)
    service.client.fine_tuning.jobs.pause(job.id)
    return service.wait_for_job(job.id, until=lambda job: job.status != "validating_files")


def ask(service: RunningService, job_id: str) -> httpx.Response:
    return httpx.get(f"{service.url}/v1/fine_tuning/jobs/{job_id}/receipt", headers={"Authorization": "Bearer any"})


def receipt_of(service: RunningService, job: Any) -> dict[str, Any]:
    answer = ask(service, job.id)
    assert answer.status_code == 200, service.describe(job.id)
    receipt: dict[str, Any] = answer.json()
    assert (receipt["object"], receipt["fine_tuning_job_id"]) == ("fine_tuning.job.receipt", job.id)
    return receipt


def warnings_of(service: RunningService, job: Any) -> dict[str, Any]:
    """The data of the events that warn of something, by what they warn of."""
    events = [
        event for event in service.events(job.id) if event.level == "warn" and event.data and "code" in event.data
    ]
    assert all(event.message == event.data["message"] for event in events)
    return {event.data["code"]: event.data for event in events}


def test_a_receipt_tells_what_will_be_trained_on(service: RunningService) -> None:
    job = validated(service, to_jsonl(chat_rows(12)), to_jsonl(chat_rows(15)[12:]))
    receipt = receipt_of(service, job)
    training = receipt["training"]
    assert (training["rows"], training["trained_rows"], training["supervised_turns"]) == (12, 12, 12)
    assert training["roles"] == {"user": 12, "assistant": 12}
    assert training["row_tokens"]["max"] == training["longest_row_tokens"]
    assert training["findings"] == []
    assert training["max_length"] == 1024
    shown = "".join(
        piece["text"] for piece in training["samples"][0]["sequences"][0]["pieces"] if piece["is_supervised"]
    )
    assert shown.startswith("It is ")
    assert shown.endswith("<|im_end|>")
    assert receipt["validation"]["rows"] == 3
    assert receipt["overlap"] == {
        "is_training_file": False,
        "total_rows": 0,
        "validation_rows": [],
        "training_rows": [],
    }
    assert warnings_of(service, job) == {}


def test_the_event_about_a_receipt_is_small_and_has_no_text_of_the_rows(service: RunningService) -> None:
    rows = [chat_row(f"Secret question {number}", f"Secret answer {number}") for number in range(12)]
    job = validated(service, to_jsonl([*rows, *rows]))
    assert "Secret" in json.dumps(receipt_of(service, job))
    told = service.events(job.id)
    assert "Secret" not in json.dumps([event.model_dump(mode="json") for event in told])
    assert "Secret" not in service.log
    summary = next(event for event in told if "receipt" in event.message)
    assert (summary.level, summary.data["rows"]) == ("warn", 24)
    assert len(json.dumps(summary.data)) < 1500


def test_every_finding_is_a_warning_of_the_job_and_names_its_rows(service: RunningService) -> None:
    rows = chat_rows(12)
    rows[2] = chat_row(answer="A long answer. " * 2000)
    rows[5] = chat_row(question="A long question? " * 2000)
    rows[8] = rows[1]
    job = validated(service, to_jsonl(rows))
    warnings = warnings_of(service, job)
    assert {code: warning["rows"] for code, warning in warnings.items()} == {
        "truncated_rows": [3],
        "dropped_rows": [6],
        "duplicate_rows": [9],
    }
    assert warnings["duplicate_rows"]["other_rows"] == [2]
    assert receipt_of(service, job)["training"]["findings"] == list(warnings.values())


def test_rows_that_nothing_can_be_learned_from_fail_the_job(service: RunningService) -> None:
    rows = chat_rows(12)
    rows[3] = chat_row(answer="")
    job = validated(service, to_jsonl(rows))
    assert (job.status, job.error.code) == ("failed", "invalid_training_file")
    assert "nothing to learn from in row 4: every answer" in job.error.message
    answer = ask(service, job.id)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "receipt_not_found")
    assert "it was failed" in answer.json()["error"]["message"]


def test_validation_rows_that_are_trained_on_are_named_with_their_twins(service: RunningService) -> None:
    rows = chat_rows(20)
    job = validated(service, to_jsonl(rows[:15]), to_jsonl([rows[18], rows[4], rows[19], rows[7]]))
    overlap = {"is_training_file": False, "total_rows": 2, "validation_rows": [2, 4], "training_rows": [5, 8]}
    assert receipt_of(service, job)["overlap"] == overlap
    warning = warnings_of(service, job)["overlapping_rows"]
    assert (warning["rows"], warning["other_rows"], warning["total_rows"]) == ([2, 4], [5, 8], 2)
    assert "2 of 4 rows" in warning["message"]
    assert "row 2 is training row 5" in warning["message"]


@pytest.mark.parametrize(
    "validation", ["same", to_jsonl(chat_rows(12)), to_jsonl(chat_rows(12)).replace(b"\n", b"\r\n")]
)
def test_a_validation_file_that_is_the_training_file_is_warned_of(
    service: RunningService, validation: bytes | str
) -> None:
    job = validated(service, to_jsonl(chat_rows(12)), validation)
    assert job.status == "queued"
    receipt = receipt_of(service, job)
    assert (receipt["overlap"]["is_training_file"], receipt["overlap"]["total_rows"]) == (True, 12)
    assert receipt["validation"]["rows"] == 12
    warnings = warnings_of(service, job)
    assert list(warnings) == ["validation_is_training"]
    assert (
        "every number measured on it is about rows that are trained on"
        in (warnings["validation_is_training"]["message"])
    )


def test_each_method_has_the_counts_that_make_sense(service: RunningService) -> None:
    preferences = [
        {
            "input": {"messages": [{"role": "user", "content": f"What is {number} plus one?"}]},
            "preferred_output": [{"role": "assistant", "content": f"It is {number + 1}."}],
            "non_preferred_output": [{"role": "assistant", "content": "I do not know."}],
        }
        for number in range(10)
    ]
    job = validated(service, to_jsonl(preferences), method={"type": "dpo"})
    training = receipt_of(service, job)["training"]
    assert (training["method"], training["supervised_turns"]) == ("dpo", 20)
    assert training["preferences"]["non_preferred_tokens"]["max"] > 0

    labelled = [row | {"label": number % 2 == 0} for number, row in enumerate(chat_rows(11))]
    kto = {"extra_body": {"x_training": {"method": "kto"}}}
    job = validated(service, to_jsonl(labelled), to_jsonl([labelled[0]]), **kto)
    receipt = receipt_of(service, job)
    assert receipt["training"]["labels"] == {"wanted": 6, "unwanted": 5}
    assert [finding["code"] for finding in receipt["validation"]["findings"]] == ["one_label", "overlapping_rows"]
    job = validated(service, to_jsonl([row | {"label": True} for row in chat_rows(11)]), **kto)
    assert (job.status, job.error.code) == ("failed", "invalid_training_file")
    assert "has the label true in every row" in job.error.message


def test_a_receipt_of_the_release_before_is_shown_with_what_it_has(service: RunningService) -> None:
    job = validated(service, to_jsonl(chat_rows(12)), to_jsonl(chat_rows(3)))
    of_before = ("rows", "trained_rows", "tokens", "supervised_tokens", "longest_row_tokens", "cut_rows")
    of_before += ("total_cut_rows", "dropped_rows", "total_dropped_rows", "template_sha256", "max_length", "sha256")
    engine = sa.create_engine(service.database_url)
    with engine.begin() as connection:
        columns = (JobRow.training_receipt, JobRow.validation_receipt)
        written = connection.execute(sa.select(*columns).where(JobRow.id == job.id)).one()
        old = [{key: receipt[key] for key in of_before} for receipt in written]
        connection.execute(
            sa.update(JobRow).where(JobRow.id == job.id).values(training_receipt=old[0], validation_receipt=old[1])
        )
    engine.dispose()
    receipt = receipt_of(service, job)
    assert (receipt["training"]["version"], receipt["training"]["row_tokens"]) == (1, None)
    assert (receipt["training"]["rows"], receipt["validation"]["rows"], receipt["overlap"]) == (12, 3, None)


def big_file(megabytes: int) -> bytes:
    rows = [chat_row(f"Question {number}: " + "which one is it? " * 40, "This one. " * 40) for number in range(800)]
    return to_jsonl(rows) * (megabytes * 1_000_000 // len(to_jsonl(rows)) + 1)


def start_alone(start_service: StartService, tmp_path: Path) -> RunningService:
    """With cores that no other service of this machine has taken."""
    service = start_service(tmp_path / "data", serving="off")
    service.stop()
    service.environment["TMPDIR"] = str(tmp_path)
    return service.start()


def is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def validation_processes(service: RunningService) -> list[psutil.Process]:
    """The process that validates, and those that it gives rows to."""
    children = psutil.Process(service.pid).children(recursive=True)
    return [child for child in children if "row_process" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_while_files_are_validated_there_is_no_receipt_and_a_lost_process_costs_a_second_try(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_alone(start_service, tmp_path)
    job = service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=service.upload(big_file(6)))
    service.client.fine_tuning.jobs.pause(job.id)
    answer = ask(service, job.id)
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("receipt_not_found", "fine_tuning_job_id")
    assert "still being validated" in error["message"]
    found: list[psutil.Process] = []

    def are_at_work() -> bool:
        found[:] = validation_processes(service)
        return bool(found)

    wait_until(are_at_work, 120, "no processes were started", lambda: service.describe(job.id))
    found[0].kill()
    assert service.wait_for_job(job.id, until=lambda job: job.status != "validating_files").status == "queued"
    assert receipt_of(service, job)["training"]["rows"] > 4000
    assert "RowProcessDied" in service.log
    assert validation_processes(service) == []


@pytest.mark.slow
def test_a_killed_service_leaves_no_process_that_validates(start_service: StartService, tmp_path: Path) -> None:
    service = start_alone(start_service, tmp_path)
    job = service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=service.upload(big_file(6)))
    wait_until(lambda: bool(validation_processes(service)), 120, "no processes", lambda: service.describe(job.id))
    rendering = validation_processes(service)
    for process in rendering:
        process.suspend()  # so that the validation cannot come to its end
    validating = rendering[0].parent()
    assert validating is not None
    service.kill()
    wait_until(lambda: not is_alive(validating), 30, "the process that validates outlived the service")
    for process in rendering:
        process.resume()
    wait_until(lambda: not any(map(is_alive, rendering)), 30, "processes outlived the service")
