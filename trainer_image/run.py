"""One run from spec to result: data, model, training with an adapter per epoch, metrics."""

import logging
import os
import sys
import time
from pathlib import Path

import datasets
import torch
import transformers

from trainer_image import artifacts
from trainer_image.data import load_rows
from trainer_image.distributed import ALONE, Group
from trainer_image.earlier_starts import EarlierStarts
from trainer_image.eva import start_from_activations
from trainer_image.methods.step_trainer import build
from trainer_image.methods.trainers import TRAINERS
from trainer_image.model import load_model, load_renderer
from trainer_image.progress import StepProgress
from trainer_image.reporting import EventReporter
from trainer_image.stopwatch import Stopwatch
from trainer_image.training_state import StateUnusable, TrainingState, load_state
from trainer_image.wandb_runs import WandbRuns
from tuning.contract import METRICS_CSV_NAME, ExitCode, JobResult, JobSpec, MessageEvent, StartedEvent

log = logging.getLogger("trainer")


def run(spec: JobSpec, reporter: EventReporter, work_dir: Path, group: Group = ALONE) -> JobResult:
    """Raises TrainingFailed for what another attempt cannot mend, SystemExit(75) when SIGTERM stopped it midway, and
    TakenOver when another start of this run goes on with it."""
    with WandbRuns(spec, reporter, work_dir / "wandb") as wandb_runs:
        return _run(spec, reporter, wandb_runs, work_dir, group)


def _run(spec: JobSpec, reporter: EventReporter, wandb_runs: WandbRuns, work_dir: Path, group: Group) -> JobResult:
    stopwatch = Stopwatch()
    _set_up_libraries(group)

    with stopwatch.stage("load"), group.loading(spec):
        tokenizer, renderer = load_renderer(spec)
        method = spec.method.type
        rows, _ = load_rows(spec.training_data, renderer, work_dir / "training.arrow", "training_file", method)
        validation_rows = None
        if spec.validation_data is not None:
            path = work_dir / "validation.arrow"
            validation_rows, _ = load_rows(spec.validation_data, renderer, path, "validation_file", method)
        model = load_model(spec, work_dir)
        trainer = build(TRAINERS[method], spec, model, tokenizer, rows, work_dir, group)
    with stopwatch.stage("load"):
        earlier = reporter.begin()  # as late as this: an older pod may just be saving its state
        state = _load_state(spec, earlier, reporter, work_dir, group)
        progress = StepProgress(spec, trainer, validation_rows, reporter, wandb_runs, stopwatch, work_dir, state)
        trainer.add_callback(progress)
        if spec.lora.init == "eva" and spec.parent_adapter_sha256 is None and state is None:
            with group.together(spec):
                start_from_activations(trainer, spec)

    trainable, _ = model.get_nb_trainable_parameters()
    log.info("%d rows, %d steps, %d trainable parameters", len(rows), progress.total_steps, trainable)
    if earlier.starts > 0 and progress.resumed_step < earlier.last_step:
        _tell_repeated_steps(reporter, earlier, progress.resumed_step)
    reporter.report(
        StartedEvent(
            created_at=time.time(),
            total_steps=progress.total_steps,
            resumed_step=progress.resumed_step,
            trainable_parameters=trainable,
        )
    )
    with stopwatch.stage("train"):
        trainer.on_rows_loaded()
        trainer.train(resume_from_checkpoint=None if state is None else str(state.folder))
    if not progress.has_ended:
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
        trained_tokens=trainer.state.num_input_tokens_seen,
        steps=trainer.state.global_step,
        seconds=stopwatch.seconds(),
    )


def _load_state(
    spec: JobSpec, earlier: EarlierStarts, reporter: EventReporter, work_dir: Path, group: Group
) -> TrainingState | None:
    """The newest that can be used: of an earlier start of this attempt, or else of an earlier attempt. The leader of
    several trainers chooses it."""
    if not group.is_leader:
        uri = group.from_leader(None)
        return None if uri is None else load_state(uri, spec, work_dir / "state")
    problems = []
    for uri in (earlier.state_uri, spec.resume_from):
        if uri is None:
            continue
        try:
            state = load_state(uri, spec, work_dir / "state")
        except StateUnusable as error:
            log.warning("the state %s cannot be used: %s", uri, error)
            problems.append(str(error))
            continue
        log.info("going on after step %d", state.step)
        break
    else:
        uri, state = None, None
    group.from_leader(uri)
    if problems:
        where = "starts from the first step" if state is None else f"goes on from an older one, after step {state.step}"
        message = f"The saved state cannot be used: {problems[0]}. Training {where}."
        reporter.report(MessageEvent(created_at=time.time(), level="warn", message=message))
    return state


def _tell_repeated_steps(reporter: EventReporter, earlier: EarlierStarts, resumed_step: int) -> None:
    where = f"goes on after step {resumed_step}, the last one saved" if resumed_step else "starts from the first step"
    message = f"Training was interrupted after step {earlier.last_step} before it could save its state. It {where}."
    log.warning(message)
    reporter.report(MessageEvent(created_at=time.time(), level="warn", message=message))


def _set_up_libraries(group: Group) -> None:
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    # torch counts the machine's cores; a container or a cpuset may own fewer.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // group.processes_here))
