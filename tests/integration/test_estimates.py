"""What a job would be, asked before it is made: the job then is just that."""

import errno
import json
import os
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import openai
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from service.database.engine import Sessions
from service.fine_tuning.estimate_answer import EstimateQuestion, answer
from service.fine_tuning.estimated_memory import quantity_in_bytes
from service.fine_tuning.estimated_time import NEWEST, FinishedRun, estimate_time, list_finished_runs
from service.fine_tuning.schemas import CreateJob
from service.fine_tuning.validation import FileToCheck
from service.settings import Settings
from tests.fixtures.catalogues import catalogue_with_copied_model
from tests.fixtures.databases import job_row
from tests.fixtures.rows import chat_row, chat_rows, to_jsonl
from tests.fixtures.service import RunningService, StartService, wait_until
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue

MODEL = "fettle-tiny"


@pytest.fixture(scope="module")
def training_file(service: RunningService) -> str:
    return service.upload(to_jsonl(chat_rows(40)))


def estimate(service: RunningService, **body: Any) -> Any:
    return service.client.post("/fine_tuning/jobs/estimate", body={"model": MODEL} | body, cast_to=object)


def refusal(service: RunningService, **body: Any) -> dict[str, Any]:
    with pytest.raises(openai.BadRequestError) as error:
        estimate(service, **body)
    return dict(error.value.response.json()["error"])


def test_the_job_becomes_what_was_estimated(service: RunningService, training_file: str) -> None:
    body: dict[str, Any] = {
        "training_file": training_file,
        "validation_file": service.upload(to_jsonl([chat_row("Why?", "So.")])),
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2}}},
        "x_training": {"r": 8, "max_length": 64},
    }
    before = [list(service.client.fine_tuning.jobs.list(limit=1)), list(service.client.files.list(limit=2))]
    estimated = estimate(service, **body)
    assert [list(service.client.fine_tuning.jobs.list(limit=1)), list(service.client.files.list(limit=2))] == before

    created: Any = service.client.post("/fine_tuning/jobs", body={"model": MODEL} | body, cast_to=object)
    service.wait_for_job(created["id"], until=lambda job: job.status != "validating_files")
    job: Any = service.client.get(f"/fine_tuning/jobs/{created['id']}", cast_to=object)
    receipt: Any = service.client.get(f"/fine_tuning/jobs/{created['id']}/receipt", cast_to=object)
    service.client.fine_tuning.jobs.cancel(created["id"])

    assert estimated["hyperparameters"] == job["hyperparameters"]
    assert estimated["x_resolved"] == job["x_resolved"]
    assert estimated["training_receipt"] == receipt["training"]
    assert estimated["validation_receipt"]["sha256"] == receipt["validation"]["sha256"]
    assert (estimated["rows"], estimated["tokens"]) == (40, receipt["training"]["tokens"])
    assert estimated["trained_tokens"] == 2 * estimated["tokens"]
    assert estimated["steps"] == 2 * -(-40 // job["hyperparameters"]["batch_size"])
    assert estimated["admission"]["would_be_admitted"]
    assert estimated["price"] is None


def test_memory_is_told_in_parts_and_with_its_error(service: RunningService, training_file: str) -> None:
    memory = estimate(service, training_file=training_file)["memory"]
    assert memory["bytes"] == sum(memory["parts"].values())
    assert memory["parts"]["weights"] == 1_771_200 * 4  # fettle-tiny's, in float32
    assert (memory["device"], memory["gradient_checkpointing"]) == ("cpu", False)
    assert (
        memory["bytes_with_gradient_checkpointing"] < memory["bytes"] == memory["bytes_without_gradient_checkpointing"]
    )
    assert 0 < memory["error_percent"] < 100
    assert memory["available_bytes"] > 0

    checkpointed = {"gradient_checkpointing": True, "r": 16}
    smaller = estimate(service, training_file=training_file, x_training=checkpointed)["memory"]
    assert smaller["gradient_checkpointing"]
    assert smaller["bytes"] == memory["bytes_with_gradient_checkpointing"]


def test_files_that_would_fail_the_job_are_told_and_refused_by_the_answer(service: RunningService) -> None:
    rows = [*chat_rows(11), {"messages": [{"role": "usr", "content": "?"}]}]
    found = estimate(service, training_file=service.upload(to_jsonl(rows)))
    [reason] = found["admission"]["reasons"]
    assert not found["admission"]["would_be_admitted"]
    assert (reason["code"], reason["param"]) == ("invalid_training_file", "training_file")
    assert "row 12" in reason["message"].lower()
    assert {found[name] for name in ("rows", "tokens", "steps", "trained_tokens", "price")} == {None}
    assert found["memory"]["bytes"] is None
    assert "refused" in found["memory"]["because"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"x_training": {"resources": {"gpus": 1}}}, "x_training.resources"),
        ({"x_training": {"r": 512}}, "x_training.r"),
        ({"x_training": {"adaptation": "full"}}, "x_training.adaptation"),
        ({"x_training": {"max_length": 4096}}, "x_training.max_length"),
        ({"x_training": {"kl_beta": 0.1}}, "x_training.kl_beta"),
        ({"suffix": "\u2028"}, "suffix"),
    ],
)
def test_what_the_job_would_be_refused_for_stands_in_the_answer(
    service: RunningService, training_file: str, asked: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        body = {"model": MODEL, "training_file": training_file} | asked
        service.client.post("/fine_tuning/jobs", body=body, cast_to=object)
    found = estimate(service, training_file=training_file, **asked)
    assert not found["admission"]["would_be_admitted"]
    [reason] = found["admission"]["reasons"]
    assert (reason["param"], reason["message"]) == (param, error.value.response.json()["error"]["message"])
    assert found["rows"] == 40


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"model": "gpt-17"}, "model"),
        ({"training_file": "file-" + "0" * 22}, "training_file"),
        ({"validation_file": "file-" + "0" * 22}, "validation_file"),
        ({"warmup": 3}, "warmup"),
        ({"x_training": {"warmup": 3}}, "x_training.warmup"),
        (
            {
                "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}},
                "x_training": {"method": "orpo"},
            },
            "x_training.method",
        ),
    ],
)
def test_a_request_that_cannot_be_estimated_is_refused(
    service: RunningService, training_file: str, asked: dict[str, Any], param: str
) -> None:
    assert refusal(service, **({"training_file": training_file} | asked))["param"] == param


def test_preferences_are_estimated_with_both_answers(service: RunningService) -> None:
    rows = [
        {
            "input": {"messages": [{"role": "user", "content": f"Say {number}."}]},
            "preferred_output": [{"role": "assistant", "content": f"{number}"}],
            "non_preferred_output": [{"role": "assistant", "content": f"Not {number}"}],
        }
        for number in range(12)
    ]
    found = estimate(service, training_file=service.upload(to_jsonl(rows)), method={"type": "dpo"})
    assert (found["method"], found["rows"]) == ("dpo", 12)
    assert found["memory"]["error_percent"] is None  # it was measured for supervised training


def test_reinforcement_is_estimated_with_the_longest_answers(service: RunningService) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Say {number}."}], "word": str(number)} for number in range(16)]
    grader = {
        "type": "string_check",
        "name": "said",
        "input": "{{sample.output_text}}",
        "reference": "{{item.word}}",
        "operation": "eq",
    }
    found = estimate(
        service,
        training_file=service.upload(to_jsonl(rows)),
        method={"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": {"n_epochs": 2}}},
        x_training={"samples_per_prompt": 4, "max_completion_tokens": 10},
    )
    assert found["admission"]["reasons"] == []
    assert found["trained_tokens"] == 2 * 4 * (found["tokens"] + 16 * 10)
    assert "grader" not in found["hyperparameters"]


def test_one_estimate_of_a_project_at_a_time_and_none_for_a_client_that_left(own_service: RunningService) -> None:
    endless, small = (own_service.upload(to_jsonl(chat_rows(10))) for _ in range(2))
    stored = own_service.data_dir / "objects" / "files" / endless
    stored.unlink()
    os.mkfifo(stored)  # whoever reads it waits for what is never written
    leaving = HTTPConnection("127.0.0.1", own_service.port)
    body = json.dumps({"model": MODEL, "training_file": endless})
    leaving.request("POST", "/v1/fine_tuning/jobs/estimate", body, {"content-type": "application/json"})
    writers: list[int] = []  # as long as one is open, the file does not end
    wait_until(lambda: is_read(stored, writers), 60, "the first estimate does not read its file")

    with pytest.raises(openai.RateLimitError) as refused:
        estimate(own_service, training_file=small)
    assert refused.value.code == "rate_limit_exceeded"
    assert int(refused.value.response.headers["retry-after"]) > 0

    leaving.close()
    wait_until(lambda: not is_read(stored, writers), 30, "the estimate of a client that left goes on")
    for writer in writers:
        os.close(writer)
    assert estimate(own_service, training_file=small)["rows"] == 10


def is_read(fifo: Path, writers: list[int]) -> bool:
    """Adds a writer if there is a reader."""
    try:
        writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError as error:
        assert error.errno == errno.ENXIO
        return False
    return True


def test_price_and_time_come_from_the_catalogue_and_from_finished_jobs(
    start_service: StartService, tmp_path: Path
) -> None:
    models, _ = catalogue_with_copied_model(tmp_path, price_per_million_tokens=2.5, currency="EUR")
    service = start_service(tmp_path / "data", serving="off", models_file=str(models), max_running_jobs="0")
    training_file = service.upload(to_jsonl(chat_rows(10)))
    first = estimate(service, training_file=training_file)
    assert first["price"] == {
        "amount": round(first["trained_tokens"] * 2.5 / 1e6, 6),
        "currency": "EUR",
        "per_million_tokens": 2.5,
    }
    assert first["seconds"] == {"value": None, "because": "no job of this base has finished here yet"}
    assert first["admission"]["jobs_ahead"] == 0
    assert [warning["code"] for warning in first["admission"]["warnings"]] == ["no_jobs_started"]

    engine = create_engine(service.database_url)
    with Session(engine) as session, session.begin():
        session.add(succeeded(MODEL, trained_tokens=1000, seconds={"load": 7.0, "train": 2.0, "save": 1.0}))
        session.add(job_row(due_at=None))
    engine.dispose()
    second = estimate(service, training_file=training_file)
    assert second["seconds"]["value"] == pytest.approx(second["trained_tokens"] / 500 + 8, abs=0.1)
    assert "1 finished job of this base on this installation (500 tokens/s median)" in second["seconds"]["because"]
    assert second["admission"]["jobs_ahead"] == 1


def succeeded(base_model: str, **columns: Any) -> Any:
    return job_row(**({"base_model": base_model, "status": "succeeded", "attempt": 1, "due_at": None} | columns))


async def test_too_little_memory_is_a_warning_with_its_remedy(tmp_path: Path) -> None:
    entry = Catalogue.load(DEFAULT_CATALOGUE).models[0]
    asked = CreateJob.model_validate({"model": MODEL, "training_file": "file-" + "0" * 22})
    path = tmp_path / "rows.jsonl"
    path.write_bytes(to_jsonl(chat_rows(20)))
    question = EstimateQuestion(
        model=MODEL,
        entry=entry,
        parent=None,
        asked=asked.asked_training,
        resources={"memory": "500Mi"},
        training=FileToCheck(path.as_uri(), "training_file"),
        validation=None,
    )
    cluster = Settings(executor="kubernetes", kubernetes_file=tmp_path / "none.yaml", storage_uri="s3://bucket")
    found = await answer(question, cluster)
    assert found.memory.available_bytes == 500 * 2**20
    [warning] = found.admission.warnings
    assert (warning.code, warning.param) == ("not_enough_memory", "x_training.resources.memory")
    assert "each node is asked to have 0.5 GB" in warning.message
    assert found.admission.would_be_admitted

    on_gpus = await answer(replace(question, resources={"gpus": 1, "memory": "500Mi"}), cluster)
    assert (on_gpus.memory.device, on_gpus.memory.error_percent) == ("cuda", None)  # nobody has measured it
    assert (on_gpus.memory.available_bytes, on_gpus.admission.warnings) == (None, [])


@pytest.mark.parametrize(
    ("quantity", "size"), [("64Gi", 64 * 2**30), ("1.5G", 1_500_000_000), ("2000", 2000), ("500m", 0), ("3k", 3000)]
)
def test_quantities_are_read_as_kubernetes_writes_them(quantity: str, size: int) -> None:
    assert quantity_in_bytes(quantity) == size


async def test_speed_is_that_of_the_newest_whole_runs_of_the_base(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        for number in range(NEWEST + 5):
            session.add(succeeded("a", trained_tokens=number + 1, seconds={"train": 1.0}))
            await session.flush()
        session.add_all(
            [
                succeeded("b", trained_tokens=10, seconds={"train": 1.0}),
                succeeded("a", trained_tokens=10, seconds=None),
                succeeded("a", trained_tokens=10, seconds={"train": 0.0}),
                succeeded("a", trained_tokens=10, seconds={"train": 1.0}, attempt=2),
                succeeded("a", trained_tokens=10, seconds={"train": 1.0}, status="failed"),
            ]
        )
    async with sessions() as session:
        runs = await list_finished_runs(session, "a")
    assert [run.trained_tokens for run in runs] == list(range(NEWEST + 5, 6, -1))


def test_time_is_that_of_the_jobs_that_are_most_alike() -> None:
    gpus = {"gpus": 1}
    runs = [
        FinishedRun("supervised", None, 1000, {"load": 10.0, "train": 10.0}),
        FinishedRun("supervised", gpus, 1000, {"load": 20.0, "train": 1.0}),
        FinishedRun("dpo", None, 1000, {"load": 10.0, "train": 100.0}),
    ]
    assert estimate_time(runs, "supervised", gpus, 5000).value == 25
    assert estimate_time(runs, "supervised", None, 5000).value == 60
    assert estimate_time(runs, "dpo", gpus, 5000).value == 510
    of_others = estimate_time(runs, "kto", None, 1000)
    assert of_others.value == 20
    assert "3 finished jobs of this base by other methods than kto" in of_others.because
    assert estimate_time(runs, "reinforcement", None, 1000).value is None
