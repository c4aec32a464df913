"""One run from spec to result: data, model, training with an adapter per epoch, metrics."""

import logging
import os
import sys
import time
from pathlib import Path

import torch
import transformers

from trainer_image import artifacts
from trainer_image.data import load_rows
from trainer_image.methods.supervised import build_trainer
from trainer_image.model import load_model, load_renderer
from trainer_image.progress import StepProgress
from trainer_image.reporting import EventReporter
from trainer_image.stopwatch import Stopwatch
from trainer_image.training_state import StateUnusable, TrainingState, load_state
from trainer_image.wandb_runs import WandbRuns
from tuning.contract import METRICS_CSV_NAME, ExitCode, JobResult, JobSpec, MessageEvent, StartedEvent

log = logging.getLogger("trainer")


def run(spec: JobSpec, reporter: EventReporter, work_dir: Path) -> JobResult:
    """Raises TrainingFailed for what another attempt cannot mend, SystemExit(75) when SIGTERM stopped it midway."""
    with WandbRuns(spec, reporter, work_dir / "wandb") as wandb_runs:
        return _run(spec, reporter, wandb_runs, work_dir)


def _run(spec: JobSpec, reporter: EventReporter, wandb_runs: WandbRuns, work_dir: Path) -> JobResult:
    stopwatch = Stopwatch()
    _set_up_libraries()

    with stopwatch.stage("load"):
        tokenizer, renderer = load_renderer(spec)
        rows, receipt = load_rows(spec.training_data, renderer, work_dir / "training.arrow", "training_file")
        validation_rows = None
        if spec.validation_data is not None:
            path = work_dir / "validation.arrow"
            validation_rows, _ = load_rows(spec.validation_data, renderer, path, "validation_file")
        state = _load_state(spec, reporter, work_dir)
        model = load_model(spec, work_dir)
        trainer = build_trainer(spec, model, tokenizer, rows, work_dir)
        progress = StepProgress(spec, trainer, validation_rows, reporter, wandb_runs, stopwatch, work_dir, state)
        trainer.add_callback(progress)

    trainable, _ = model.get_nb_trainable_parameters()
    log.info("%d rows, %d steps, %d trainable parameters", len(rows), progress.total_steps, trainable)
    reporter.report(
        StartedEvent(
            created_at=time.time(),
            total_steps=progress.total_steps,
            resumed_step=progress.resumed_step,
            trainable_parameters=trainable,
        )
    )
    with stopwatch.stage("train"):
        trainer.train(resume_from_checkpoint=None if state is None else str(state.folder))
    if trainer.state.global_step < progress.total_steps:
        log.info("stopped by SIGTERM after step %d of %d", trainer.state.global_step, progress.total_steps)
        sys.exit(ExitCode.PREEMPTED)

    with stopwatch.stage("save"):
        progress.csv.close()
        artifacts.upload_file(progress.csv.path, f"{spec.output_uri}/{METRICS_CSV_NAME}")
    return JobResult(
        job_id=spec.job_id,
        attempt=spec.attempt,
        error=None,
        adapter_sha256=progress.adapter_sha256,
        trained_tokens=receipt.tokens * spec.method.n_epochs,
        steps=progress.total_steps,
        seconds=stopwatch.seconds(),
    )


def _load_state(spec: JobSpec, reporter: EventReporter, work_dir: Path) -> TrainingState | None:
    if spec.resume_from is None:
        return None
    try:
        state = load_state(spec.resume_from, spec, work_dir / "state")
    except StateUnusable as error:
        message = f"The saved state cannot be used: {error}. Training starts from the first step."
        log.warning("%s (%s)", message, spec.resume_from)
        reporter.report(MessageEvent(created_at=time.time(), level="warn", message=message))
        return None
    log.info("going on after step %d", state.step)
    return state


def _set_up_libraries() -> None:
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # torch counts the machine's cores; a container or a cpuset may own fewer.
    torch.set_num_threads(len(os.sched_getaffinity(0)))
