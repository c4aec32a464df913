"""What happens after a step: its numbers, validation, the adapter of an ended epoch, and a stop with a state."""

import logging
import math
import random
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_image.checkpoints import publish_adapter
from trainer_image.distributed import Group
from trainer_image.methods.step_trainer import StepTrainer
from trainer_image.reporting import EventReporter, MetricsCsv, MetricsPace
from trainer_image.stopwatch import Stopwatch
from trainer_image.training_state import TrainingState, save_state
from trainer_image.wandb_runs import WandbRuns
from tuning.contract import (
    METRICS_CSV_NAME,
    CheckpointEvent,
    JobSpec,
    MetricsEvent,
    StateSavedEvent,
    StepMetrics,
    metrics_csv_columns,
)

log = logging.getLogger("trainer")

SAMPLE_ROWS = 32
SAMPLE_VALIDATIONS = 20
"""In a run, and less often where the sample would be more than a tenth of the rows trained on in between: a validated
row costs a third of a trained one, so that all of them stay within a few percent of the run."""


class StepProgress(TrainerCallback):
    """Owns SIGTERM from the start of the loop: the step at hand is finished, and the run too if that was the last.

    Otherwise the Trainer saves its state and stops. Of several trainers only the leader reports, publishes and saves.
    """

    def __init__(
        self,
        spec: JobSpec,
        trainer: StepTrainer,
        validation_rows: Dataset | None,
        reporter: EventReporter,
        wandb_runs: WandbRuns,
        stopwatch: Stopwatch,
        work_dir: Path,
        state: TrainingState | None,
    ) -> None:
        self.steps_per_epoch = math.ceil(len(trainer.train_dataset) / spec.method.batch_size)
        self.total_steps = self.steps_per_epoch * spec.method.n_epochs
        self.resumed_step = 0 if state is None else state.step
        csv_path = work_dir / METRICS_CSV_NAME
        if state is not None:
            shutil.copyfile(state.metrics_csv, csv_path)
        self.csv = MetricsCsv(csv_path, metrics_csv_columns(spec.method.type))
        self.adapter_sha256: str | None = None
        """Of the adapter that was published last; after the last step, the job's result."""
        self._spec = spec
        self._trainer = trainer
        self._group: Group = trainer.group
        self._validation_rows = validation_rows
        self._validation_sample = _sample(validation_rows, spec.seed)
        self._validate_every = max(
            math.ceil(self.total_steps / SAMPLE_VALIDATIONS), math.ceil(10 * SAMPLE_ROWS / spec.method.batch_size)
        )
        self._reporter = reporter
        self._wandb_runs = wandb_runs
        self._stopwatch = stopwatch
        self._work_dir = work_dir
        self._pace = MetricsPace(self.total_steps, resumed_step=self.resumed_step)
        self._started = time.monotonic()
        self._is_stopping = False
        self._last_metrics: StepMetrics | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._started = time.monotonic()
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._group.check_weights(self.resumed_step, self._trainer.model.parameters())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._reporter.raise_if_taken_over()
        step = state.global_step
        is_epoch_end = step % self.steps_per_epoch == 0
        metrics = StepMetrics(
            step=step,
            total_steps=self.total_steps,
            **_named("train", self._trainer.step_metrics),
            **self._validate(step, is_epoch_end),
        )
        self.csv.add(metrics)
        self._wandb_runs.log(metrics)
        self._last_metrics = metrics
        must_stop = self._group.must_stop(self._is_stopping) and step < self.total_steps
        if is_epoch_end or must_stop:
            self._group.check_weights(step, self._trainer.model.parameters())
        if (self._pace.is_due(metrics) or must_stop) and self._group.is_leader:
            self._report(metrics)
        if is_epoch_end and self._group.is_leader:
            self._publish(metrics)
        if must_stop:
            control.should_training_stop = True
            control.should_save = self._group.is_leader

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The run was told to stop. The state goes up first: there may be little time."""
        step = state.global_step
        assert self._last_metrics is not None
        with self._stopwatch.stage("save"):
            folder = self._work_dir / f"checkpoint-{step}"  # where the Trainer has saved to
            self.csv.flush()
            shutil.copyfile(self.csv.path, folder / METRICS_CSV_NAME)
            saved_in = save_state(folder, self._spec, step)
        self._reporter.report(StateSavedEvent(created_at=time.time(), step=step, folder=saved_in))
        if step % self.steps_per_epoch != 0:  # the adapter of an epoch's end is there already
            self._publish(self._last_metrics)

    def _validate(self, step: int, is_epoch_end: bool) -> dict[str, float]:
        if self._validation_rows is None:
            return {}
        values: dict[str, float] = {}
        with self._stopwatch.stage("evaluate"):
            if step in (1, self.total_steps) or step % self._validate_every == 0:
                values |= _named("valid", self._trainer.evaluate_rows(self._validation_sample))
            if is_epoch_end:
                values |= _named("full_valid", self._trainer.evaluate_rows(self._validation_rows))
        return values

    def _report(self, metrics: StepMetrics) -> None:
        seconds_a_step = (time.monotonic() - self._started) / (metrics.step - self.resumed_step)
        seconds_left = seconds_a_step * (self.total_steps - metrics.step)
        log.info(
            "step %d/%d: %s; %d s left",
            metrics.step,
            self.total_steps,
            ", ".join(f"{name} {value:.4f}" for name, value in self._trainer.step_metrics.items()),
            seconds_left,
        )
        if metrics.full_valid_loss is not None:
            log.info("validation: loss %.4f on all rows", metrics.full_valid_loss)
        self._reporter.report(MetricsEvent(created_at=time.time(), metrics=metrics, seconds_left=seconds_left))

    def _publish(self, metrics: StepMetrics) -> None:
        with self._stopwatch.stage("save"):
            folder = self._work_dir / f"adapter-{metrics.step}"
            self.adapter_sha256 = publish_adapter(self._trainer.model, self._spec, folder)
        log.info("step %d: adapter %s", metrics.step, self.adapter_sha256)
        self._reporter.report(
            CheckpointEvent(
                created_at=time.time(),
                step=metrics.step,
                adapter_sha256=self.adapter_sha256,
                metrics=metrics,
            )
        )

    def _on_sigterm(self, _signal: int, _frame: FrameType | None) -> None:
        self._is_stopping = True


def _named(on: str, metrics: dict[str, float]) -> dict[str, float]:
    return {f"{on}_{name}": value for name, value in metrics.items()}


def _sample(rows: Dataset | None, seed: int) -> Dataset | None:
    """The same rows at every step and in every run with this seed."""
    if rows is None or len(rows) <= SAMPLE_ROWS:
        return rows
    return rows.select(sorted(random.Random(seed).sample(range(len(rows)), SAMPLE_ROWS)))
