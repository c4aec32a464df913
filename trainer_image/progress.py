"""What happens after a step: its numbers, validation, the adapter of an ended epoch or of the best step so far, a stop
with a state, and the choice of the result."""

import logging
import math
import random
import shutil
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_image.checkpoints import publish_adapter
from trainer_image.distributed import Group
from trainer_image.methods.step_trainer import StepTrainer
from trainer_image.reporting import EventReporter, MetricsCsv, MetricsPace
from trainer_image.selection import Selection
from trainer_image.stopwatch import Stopwatch
from trainer_image.training_state import TrainingState, save_state
from trainer_image.wandb_runs import WandbRuns
from tuning.contract import (
    METRICS_CSV_NAME,
    CheckpointEvent,
    JobSpec,
    MessageEvent,
    MetricsEvent,
    ReinforcementSpec,
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
        self._selection = Selection(spec)
        if state is not None:
            shutil.copyfile(state.metrics_csv, csv_path)
            self._selection.load(state.folder)
        self.csv = MetricsCsv(csv_path, metrics_csv_columns(spec.method.type))
        self.has_ended = False
        """After the last step, or after the one at which training on was no longer worth it."""
        self.adapter_sha256: str | None = None
        """Of the job's result, once it has ended."""
        self._spec = spec
        self._trainer = trainer
        self._group: Group = trainer.group
        self._validation_rows = validation_rows
        self._validation_sample = _sample(validation_rows, spec.seed)
        self._validate_every = (
            spec.method.eval_interval
            if isinstance(spec.method, ReinforcementSpec)
            else max(
                math.ceil(self.total_steps / SAMPLE_VALIDATIONS), math.ceil(10 * SAMPLE_ROWS / spec.method.batch_size)
            )
        )
        self._validate_all_every = spec.selection.eval_steps or self.steps_per_epoch
        self._reporter = reporter
        self._wandb_runs = wandb_runs
        self._stopwatch = stopwatch
        self._work_dir = work_dir
        self._pace = MetricsPace(self.total_steps, resumed_step=self.resumed_step)
        self._started = time.monotonic()
        self._is_stopping = False
        self._had_room = True
        self._last_metrics: StepMetrics | None = None
        self._published: tuple[int, str | None] = (0, None)
        """The last step with an adapter, and its hash."""

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
            **self._validate(step),
        )
        self.csv.add(metrics)
        self._wandb_runs.log(metrics)
        self._last_metrics = metrics
        is_best = self._selection.take(metrics)
        self.has_ended = step == self.total_steps or self._selection.is_exhausted
        must_stop = self._group.must_stop(self._is_stopping) and not self.has_ended
        if is_epoch_end or is_best or must_stop or self.has_ended:
            self._group.check_weights(step, self._trainer.model.parameters())
        if (self._pace.is_due(metrics) or must_stop or self.has_ended) and self._group.is_leader:
            self._report(metrics)
        self._tell_less_room(step)
        for news in self._trainer.take_news():
            self._reporter.report(MessageEvent(created_at=time.time(), **news._asdict()))
        if is_best:
            self._selection.name_best(self._publish(step))
        if self.has_ended:
            self._end(metrics)
            control.should_training_stop = True
        elif is_epoch_end or is_best:
            self._tell_checkpoint(metrics, self._publish(step))
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
            self._selection.save(folder)
            saved_in = save_state(folder, self._spec, step)
        self._reporter.report(StateSavedEvent(created_at=time.time(), step=step, folder=saved_in))
        if self._published[0] != step:
            self._tell_checkpoint(self._last_metrics, self._publish(step))

    def _validate(self, step: int) -> dict[str, float]:
        if self._validation_rows is None:
            return {}
        values: dict[str, float] = {}
        with self._stopwatch.stage("evaluate"):
            on_all = None
            if step == self.total_steps or step % self._validate_all_every == 0:
                on_all = self._trainer.evaluate_rows(self._validation_rows)
                values |= _named("full_valid", on_all)
            if step in (1, self.total_steps) or step % self._validate_every == 0:
                if on_all is None or self._validation_sample is not self._validation_rows:
                    on_all = self._trainer.evaluate_rows(self._validation_sample)
                values |= _named("valid", on_all)
        return values

    def _end(self, last: StepMetrics) -> None:
        """The result is told last, after the adapter of the last step where that is another one."""
        kept = self._selection.kept
        if kept is None or kept.metrics.step == last.step:
            self.adapter_sha256 = self._publish(last.step)
            self._tell_checkpoint(last, self.adapter_sha256, is_result=True)
            kept_step = last.step
        else:
            if last.step % self.steps_per_epoch == 0:
                self._tell_checkpoint(last, self._publish(last.step))
            self.adapter_sha256 = kept.adapter_sha256
            self._tell_checkpoint(kept.metrics, self.adapter_sha256, is_result=True)
            kept_step = kept.metrics.step
        told = []
        if last.step < self.total_steps:
            evaluations = self._selection.evaluations_without_better
            told.append(f"Training stopped early: the last {evaluations} evaluations brought nothing better.")
        if kept_step < last.step:
            told.append(f"The result is the model of step {kept_step}, the best on the validation rows.")
        if told:
            self._tell("info", "selection", " ".join(told))

    def _tell_less_room(self, step: int) -> None:
        if self._trainer.has_less_room and self._had_room:
            self._had_room = False
            message = (
                f"Step {step} ran out of memory and was done again with half as many tokens in a forward pass, and "
                "with gradient checkpointing. Training goes on so: the result is the same, and a step takes longer."
            )
            self._tell("warn", "less-room", message)

    def _tell(self, level: Literal["info", "warn"], key: str, message: str) -> None:
        log.log(logging.WARNING if level == "warn" else logging.INFO, message)
        self._reporter.report(MessageEvent(created_at=time.time(), key=key, level=level, message=message))

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

    def _publish(self, step: int) -> str | None:
        """At most once a step. Only the leader learns the hash."""
        if self._published[0] == step:
            return self._published[1]
        sha256 = None
        if self._group.is_leader:
            with self._stopwatch.stage("save"):
                sha256 = publish_adapter(self._trainer.model, self._spec, self._work_dir / f"adapter-{step}")
            log.info("step %d: adapter %s", step, sha256)
        self._published = (step, sha256)
        return sha256

    def _tell_checkpoint(self, metrics: StepMetrics, sha256: str | None, is_result: bool = False) -> None:
        if not self._group.is_leader:
            return
        assert sha256 is not None
        self._reporter.report(
            CheckpointEvent(
                created_at=time.time(),
                step=metrics.step,
                adapter_sha256=sha256,
                metrics=metrics,
                is_result=is_result,
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
