"""Runs in Weights & Biases, with the real library: what it writes offline, and that its failures cost no training."""

import json
from pathlib import Path

import pytest

from tests.fixtures.service import free_port
from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, write_job
from tests.fixtures.training_run import start, train
from tests.fixtures.wandb_files import WandbRun, read_run
from tests.fixtures.wandb_server import running_wandb_server
from tuning.contract import ExitCode, WandbSpec

STEPS = 10
FIRST = WandbSpec(run_id="0123456789abcdef", project="sums", name="the first", entity="a-team", tags=("a", "b"))
SECOND = WandbSpec(run_id="fedcba9876543210", project="others", name="ftjob-test", entity=None, tags=())
KEY = "local-" + "4f" * 20


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    model = tmp_path / "model"
    build_tiny_model(model)
    return write_job(tmp_path / "job", model, validation_rows=12)


def with_wandb(job: TrainingJob, *integrations: WandbSpec) -> TrainingJob:
    spec = job.spec.model_copy(update={"wandb": integrations})
    (job.folder / "spec.json").write_text(spec.model_dump_json())
    return TrainingJob(spec, job.folder)


def kept_runs(job: TrainingJob) -> dict[str, WandbRun]:
    paths = list((job.folder / "out" / "wandb").glob("*run-*/run-*.wandb"))  # where `wandb sync` looks
    return {path.stem.removeprefix("run-"): read_run(path) for path in paths}


def told(job: TrainingJob) -> list[tuple[str, str]]:
    return [(event["level"], event["message"]) for event in job.events() if event["type"] == "message"]


def test_offline_runs_hold_every_step_and_are_kept_for_a_later_sync(job: TrainingJob) -> None:
    job = with_wandb(job, FIRST, SECOND)
    code, log = train(job, {"WANDB_MODE": "offline"})
    assert code == ExitCode.OK, log
    runs = kept_runs(job)
    assert set(runs) == {FIRST.run_id, SECOND.run_id}
    run = runs[FIRST.run_id]
    assert (run.run_id, run.project, run.entity, run.name) == (FIRST.run_id, "sums", "a-team", "the first")
    assert (run.tags, run.exit_code) == (["a", "b"], 0)
    assert run.config["job_id"] == "ftjob-test" and run.config["method"]["batch_size"] == 8
    assert [metrics["_step"] for metrics in run.metrics] == list(range(1, STEPS + 1))
    of_step = {event["metrics"]["step"]: event["metrics"] for event in job.events() if event["type"] == "metrics"}
    for metrics in run.metrics:
        measured = {name: value for name, value in metrics.items() if not name.startswith("_")}
        event = {name: value for name, value in of_step[metrics["_step"]].items() if "step" not in name}
        assert measured == pytest.approx(event)
    assert "full_valid_loss" in run.metrics[-1]
    assert runs[SECOND.run_id].metrics[-1]["train_loss"] == run.metrics[-1]["train_loss"]
    [(level, message)] = told(job)
    assert level == "info" and "wandb sync" in message and "jobs/ftjob-test/" in message


def test_a_run_that_is_stopped_keeps_its_steps_so_far(job: TrainingJob) -> None:
    job = with_wandb(write_job(job.folder.parent / "long", job.folder.parent / "model", n_epochs=30), FIRST)
    process = start(job, {"WANDB_MODE": "offline"})
    assert process.stderr is not None
    next(line for line in process.stderr if "step 2/" in line)
    process.terminate()
    log = process.stderr.read()
    assert process.wait(60) == ExitCode.PREEMPTED, log
    [state] = [event for event in job.events() if event["type"] == "state_saved"]
    run = kept_runs(job)[FIRST.run_id]
    assert [metrics["_step"] for metrics in run.metrics] == list(range(1, state["step"] + 1))
    assert run.exit_code == ExitCode.PREEMPTED


def test_a_server_is_sent_every_step_under_the_jobs_run_id(job: TrainingJob) -> None:
    job = with_wandb(job, FIRST, SECOND)
    with running_wandb_server() as server:
        environment = {"WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        code, log = train(job, environment)
    assert code == ExitCode.OK, log
    assert server.keys == {KEY}
    asked = {run["name"]: run for run in server.runs if run["displayName"]}
    assert set(asked) == {FIRST.run_id, SECOND.run_id}
    first = asked[FIRST.run_id]
    assert (first["entity"], first["project"], first["displayName"]) == ("a-team", "sums", "the first")
    assert (first["tags"], first["host"], first["repo"]) == (["a", "b"], None, None)
    losses = [event["metrics"]["train_loss"] for event in job.events() if event["type"] == "metrics"]
    for run_id in (FIRST.run_id, SECOND.run_id):
        assert [step["_step"] for step in server.steps[run_id]] == list(range(1, STEPS + 1))
        assert [step["train_loss"] for step in server.steps[run_id]] == pytest.approx(losses)
    assert [level for level, _ in told(job)] == ["info", "info"]
    assert f"a-team/sums/runs/{FIRST.run_id}" in told(job)[0][1]
    assert kept_runs(job) == {}
    assert KEY not in log + json.dumps(job.events()) + (job.folder / "spec.json").read_text()


def test_a_server_that_cannot_be_reached_costs_an_event_and_no_training(job: TrainingJob) -> None:
    job = with_wandb(job, FIRST, SECOND)
    environment = {
        "WANDB_MODE": "online",
        "WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}",
        "WANDB_API_KEY": KEY,
        "WANDB_INIT_TIMEOUT": "2",
    }
    code, log = train(job, environment)
    assert code == ExitCode.OK, log
    result = job.result()
    assert result is not None and result.adapter_sha256 is not None
    [(level, message)] = told(job)
    assert level == "warn" and message.startswith("Weights & Biases failed") and "not affected" in message
    assert KEY not in log + json.dumps(job.events()) + (job.folder / "spec.json").read_text()
