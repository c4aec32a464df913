"""The trainer as the executor starts it: a process with a spec's URI, judged by what it leaves in storage."""

import csv
import json
import math
import os
import shutil
import signal
from pathlib import Path
from unittest.mock import patch

import pytest
from safetensors.torch import load_file

from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import TrainingJob, write_job
from tests.fixtures.training_run import start, train
from trainer_image.__main__ import main
from tuning.adapter_manifest import ADAPTER_FILES, AdapterManifest, describe_file
from tuning.contract import METRICS_CSV_COLUMNS, ErrorCode, ExitCode, JobResult, JobSpec


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[TrainingJob, str]:
    """37 rows in batches of 8: 5 steps an epoch, the last with 5 rows."""
    job = write_job(tmp_path_factory.mktemp("job") / "first", model, validation_rows=12)
    code, log = train(job)
    assert code == ExitCode.OK, log
    return job, log


def adapter_folder(job: TrainingJob, sha256: str) -> Path:
    return job.folder.parent / "adapters" / sha256


def test_result_counts_steps_tokens_and_seconds(finished: tuple[TrainingJob, str]) -> None:
    result = finished[0].result()
    assert result is not None and result.error is None
    assert result.steps == 10
    assert result.trained_tokens and result.trained_tokens % 2 == 0
    assert set(result.seconds) == {"load", "train", "evaluate", "save"}


def test_events_tell_the_run_in_order_without_gaps(finished: tuple[TrainingJob, str]) -> None:
    job, _ = finished
    events = job.events()
    assert [event["type"] for event in events if event["type"] != "metrics"] == [
        *("started", "checkpoint", "checkpoint", "finished")
    ]
    metrics = [event["metrics"] for event in events if event["type"] == "metrics"]
    assert [step["step"] for step in metrics] == list(range(1, 11))
    assert {"valid_loss", "valid_mean_token_accuracy"} <= metrics[0].keys()
    assert {"full_valid_loss", "full_valid_mean_token_accuracy"} <= metrics[4].keys() & metrics[9].keys()
    assert events[-2]["adapter_sha256"] == job.result().adapter_sha256
    assert events[-2]["metrics"] == metrics[-1]
    assert JobResult.model_validate(events[-1]["result"]) == job.result()


def test_csv_has_a_row_for_every_step(finished: tuple[TrainingJob, str]) -> None:
    path = finished[0].folder / "out" / "step_metrics.csv"
    rows = list(csv.DictReader(path.open()))
    assert tuple(rows[0]) == METRICS_CSV_COLUMNS
    assert [int(row["step"]) for row in rows] == list(range(1, 11))
    assert all(math.isfinite(float(row["train_loss"])) for row in rows)
    assert float(rows[-1]["full_valid_loss"]) < float(rows[0]["valid_loss"])


def test_adapter_is_two_files_under_the_hash_of_their_manifest(finished: tuple[TrainingJob, str]) -> None:
    job, _ = finished
    for event in [event for event in job.events() if event["type"] == "checkpoint"]:
        folder = adapter_folder(job, event["adapter_sha256"])
        manifest = AdapterManifest.from_json((folder / "manifest.json").read_bytes(), folder.name)
        assert manifest.base_model == "tiny" and manifest.r == 4
        assert manifest.target_modules == (
            *("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"),
        )
        assert manifest.files == tuple(describe_file(folder / name) for name in ADAPTER_FILES)
        assert {path.name for path in folder.iterdir()} == {*ADAPTER_FILES, "manifest.json"}
        config = (folder / "adapter_config.json").read_text()
        assert str(job.folder.parent) not in config and json.loads(config)["base_model_name_or_path"] == "tiny"


def test_every_lora_weight_moves_from_one_epoch_to_the_next(finished: tuple[TrainingJob, str]) -> None:
    job, _ = finished
    first, last = (
        load_file(adapter_folder(job, event["adapter_sha256"]) / "adapter_model.safetensors")
        for event in job.events()
        if event["type"] == "checkpoint"
    )
    assert first.keys() == last.keys() and not any("lm_head" in name for name in first)
    assert len(first) == 2 * 2 * 7  # A and B of seven linears in two layers
    assert [name for name in first if (first[name] == last[name]).all()] == []
    assert [name for name in last if not last[name].any()] == []


def test_work_folder_is_empty_afterwards_and_the_log_is_for_people(finished: tuple[TrainingJob, str]) -> None:
    job, log = finished
    assert list((job.folder / "work").iterdir()) == []
    assert "step 10/10: loss" in log
    assert "Warning" not in log and "it/s" not in log


def test_same_spec_and_seed_give_the_same_adapter(finished: tuple[TrainingJob, str], model: Path) -> None:
    job, _ = finished
    again = write_job(job.folder.parent / "again", model, validation_rows=12)
    assert train(again)[0] == ExitCode.OK
    assert again.result().adapter_sha256 == job.result().adapter_sha256


def test_sigterm_before_the_last_step_exits_75_without_a_result(tmp_path: Path, model: Path) -> None:
    job = write_job(tmp_path / "job", model, n_epochs=50, batch_size=1)
    process = start(job)
    assert process.stderr is not None
    for line in process.stderr:
        if "step 1/" in line:
            process.send_signal(signal.SIGTERM)
            break
    log = process.stderr.read()
    assert process.wait(timeout=60) == ExitCode.PREEMPTED, log
    assert job.result() is None
    assert job.events()[0]["type"] == "started"
    [state] = [event for event in job.events() if event["type"] == "state_saved"]
    assert (job.folder / "out" / state["folder"] / "manifest.json").exists()
    assert list((job.folder / "work").iterdir()) == []


def test_crash_exits_with_a_trace_and_no_result(tmp_path: Path, model: Path) -> None:
    job = write_job(tmp_path / "job", model)
    (job.folder / "adapter-store").write_text("a file where a folder must be")
    spec = job.spec.model_copy(update={"adapters_uri": (job.folder / "adapter-store").as_uri()})
    (job.folder / "spec.json").write_text(spec.model_dump_json())
    code, log = train(job)
    assert code == 1 and "Traceback" in log
    assert job.result() is None


def fail(job: TrainingJob, spec: JobSpec) -> tuple[ErrorCode, str]:
    """In this process, because the imports take longer than the failure."""
    (job.folder / "spec.json").write_text(spec.model_dump_json())
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with patch.dict(os.environ, {"FETTLE_WORK_DIR": str(job.folder)}):
        code = main(job.spec_uri)
    signal.signal(signal.SIGTERM, on_sigterm)
    assert code == ExitCode.USER_ERROR
    result = job.result()
    assert result is not None and result.error is not None and result.adapter_sha256 is None
    return result.error.code, result.error.message


def test_diverging_job_fails_with_advice(tmp_path: Path, model: Path) -> None:
    job = write_job(tmp_path / "job", model, learning_rate=1e30, max_grad_norm=0.0)
    code, message = fail(job, job.spec)
    assert code is ErrorCode.DIVERGED and "learning_rate_multiplier" in message


def test_changed_training_file_fails(tmp_path: Path, model: Path) -> None:
    job = write_job(tmp_path / "job", model)
    path = job.folder / "training.jsonl"
    path.write_text(path.read_text().replace("3 plus 9", "3 times 9"))
    code, message = fail(job, job.spec)
    assert code is ErrorCode.DATA_CHANGED and "training_file" in message


def test_changed_template_fails(tmp_path: Path, model: Path) -> None:
    changed = Path(shutil.copytree(model, tmp_path / "changed"))
    job = write_job(tmp_path / "job", changed)
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text() + "\n{# another #}")
    code, message = fail(job, job.spec)
    assert code is ErrorCode.DATA_CHANGED and "chat template" in message


def test_missing_files_fail_with_their_own_codes(tmp_path: Path, model: Path) -> None:
    job = write_job(tmp_path / "a", model)
    (job.folder / "training.jsonl").unlink()
    assert fail(job, job.spec)[0] is ErrorCode.DELETED_TRAINING_FILE

    job = write_job(tmp_path / "b", model)
    base = job.spec.base_model.model_copy(update={"source": str(tmp_path / "nowhere")})
    code, message = fail(job, job.spec.model_copy(update={"base_model": base}))
    assert code is ErrorCode.MODEL_UNAVAILABLE and "tiny" in message
