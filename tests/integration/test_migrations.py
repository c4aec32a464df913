"""A database of the first version, with rows in every table, is brought up to date and served, on both databases."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, text

import service.database
from tests.fixtures.service import RunningService, StartService, new_database

JOB, WAITING = "ftjob-" + "a" * 24, "ftjob-" + "b" * 24
FILE, DELETED_FILE = "file-" + "a" * 22, "file-" + "b" * 22
MODEL = "ft:fettle-tiny:fettle:home:aaaaaaaa"
CHECKPOINT = f"{MODEL}:ckpt-step-4"
METADATA = {"team": "tests", "ticket": "12"}
NOW = 1790000000.5

JOB_ROW: dict[str, Any] = {
    "id": JOB,
    "created_at": NOW,
    "status": "succeeded",
    "model": "fettle-tiny",
    "training_file": FILE,
    "validation_file": None,
    "suffix": "home",
    "seed": 7,
    "job_metadata": json.dumps(METADATA),
    "method_type": "supervised",
    "hyperparameters": json.dumps({"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.0}),
    "error": None,
    "started_at": NOW,
    "finished_at": NOW,
    "fine_tuned_model": MODEL,
    "trained_tokens": 1234,
    "result_files": "[]",
    "attempt": 1,
    "next_event_part": 3,
    "due_at": None,
}
WAITING_ROW = JOB_ROW | {
    "id": WAITING,
    "status": "validating_files",
    "training_file": DELETED_FILE,
    "job_metadata": None,
    "started_at": None,
    "finished_at": None,
    "fine_tuned_model": None,
    "trained_tokens": None,
    "attempt": 0,
    "next_event_part": 1,
    "due_at": NOW,
}


def insert(connection: Connection, table: str, **values: object) -> None:
    columns, names = ", ".join(values), ", ".join(f":{name}" for name in values)
    connection.execute(text(f"INSERT INTO {table} ({columns}) VALUES ({names})"), values)


def fill(connection: Connection) -> None:
    for file_id, deleted_at in ((FILE, None), (DELETED_FILE, NOW)):
        values: dict[str, Any] = {"purpose": "fine-tune", "bytes": 3, "sha256": "0" * 64, "deleted_at": deleted_at}
        insert(connection, "files", id=file_id, created_at=NOW, filename="rows.jsonl", **values)
    for job in (JOB_ROW, WAITING_ROW):
        insert(connection, "jobs", **job)
    for job_id, name in ((JOB, "a"), (WAITING, "b")):
        values = {"level": "info", "message": f"Created fine-tuning job: {job_id}", "type": "message"}
        insert(connection, "events", id=f"ftevent-{name * 24}", job_id=job_id, key="created", created_at=NOW, **values)
    values = {"model": CHECKPOINT, "adapter_sha256": "1" * 64, "metrics": json.dumps({"step": 4, "train_loss": 0.5})}
    insert(connection, "checkpoints", id="ftckpt_" + "a" * 24, job_id=JOB, created_at=NOW, step_number=4, **values)
    for model in (CHECKPOINT, MODEL):
        values = {"base_model": "fettle-tiny", "adapter_sha256": "1" * 64}
        insert(connection, "models", name=model, job_id=JOB, created_at=NOW, **values)


@pytest.fixture(params=["sqlite", "postgresql"])
def upgraded(request: pytest.FixtureRequest, start_service: StartService, tmp_path: Path) -> RunningService:
    """A service that found such a database when it started."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    settings = {"serving": "off"} | ({} if request.param == "sqlite" else {"database_url": new_database()})
    engine = create_engine(settings.get("database_url") or f"sqlite:///{data_dir / 'fettle.db'}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", f"{service.database.__path__[0]}/migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        fill(connection)
    engine.dispose()
    return start_service(data_dir, **settings)


def test_everything_from_before_is_there_and_belongs_to_the_default_project(upgraded: RunningService) -> None:
    client = upgraded.client.with_options(project="proj_default", organization="org-default")
    assert [file.id for file in client.files.list()] == [FILE]
    assert client.files.retrieve(FILE).created_at == int(NOW)
    job = client.fine_tuning.jobs.retrieve(JOB)
    assert (job.status, job.model, job.fine_tuned_model, job.seed) == ("succeeded", "fettle-tiny", MODEL, 7)
    assert (job.metadata, job.trained_tokens, job.hyperparameters.n_epochs) == (METADATA, 1234, 2)
    assert [job.id for job in client.fine_tuning.jobs.list()] == [WAITING, JOB]
    [event] = client.fine_tuning.jobs.list_events(JOB)
    assert event.message == f"Created fine-tuning job: {JOB}"
    [checkpoint] = client.fine_tuning.jobs.checkpoints.list(JOB)
    assert checkpoint.fine_tuned_model_checkpoint == CHECKPOINT
    assert [model.id for model in client.models.list() if model.id.startswith("ft:")] == [MODEL, CHECKPOINT]
    projects = client.with_options(admin_api_key="any").admin.organization.projects.list()
    assert [(project.id, project.name) for project in projects] == [("proj_default", "Default project")]


def test_metadata_from_before_is_found_by_the_filter(upgraded: RunningService) -> None:
    jobs = upgraded.client.fine_tuning.jobs
    assert [job.id for job in jobs.list(metadata={"team": "tests", "ticket": "12"})] == [JOB]
    assert list(jobs.list(metadata={"team": "others"})) == []
    assert [job.id for job in jobs.list(extra_query={"metadata": "null"})] == [WAITING]


def test_a_job_that_had_not_ended_goes_on(upgraded: RunningService) -> None:
    job = upgraded.wait_for_job(WAITING, "failed")
    assert job.error is not None
    assert job.error.code == "deleted_training_file"
    assert job.created_at <= time.time()


def test_what_is_new_works_on_rows_from_before(upgraded: RunningService) -> None:
    admin = upgraded.client.with_options(admin_api_key="any")
    other = admin.admin.organization.projects.create(name="other").id
    admin.fine_tuning.checkpoints.permissions.create(CHECKPOINT, project_ids=[other])
    assert admin.with_options(project=other).models.retrieve(CHECKPOINT).id == CHECKPOINT
    assert admin.models.delete(MODEL).deleted
    upgraded.restart()
    assert [model.id for model in admin.models.list() if model.id.startswith("ft:")] == [CHECKPOINT]
