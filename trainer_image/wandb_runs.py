"""The job's runs in Weights & Biases, fed by a thread: training neither waits for them nor fails with them.

The key, the server and the mode come from the environment (WANDB_API_KEY, WANDB_BASE_URL, WANDB_MODE). What leaves the
machine are the job's id, its numbers and its hyperparameters: no console output, no code, nothing of the hardware.
What W&B did not take, or was never meant to take (offline), is uploaded beside the run, where `wandb sync` finds it.
"""

import logging
import os
import queue
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from trainer_image import artifacts
from trainer_image.reporting import EventReporter
from tuning.contract import ExitCode, JobSpec, MessageEvent, StepMetrics, WandbSpec

if TYPE_CHECKING:
    from wandb import Run

log = logging.getLogger("trainer")

FINISH_TIMEOUT = timedelta(seconds=30)
"""For the last metrics, once training is over: a server that does not answer must not keep the job from its end."""


class WandbRuns:
    def __init__(self, spec: JobSpec, reporter: EventReporter, folder: Path) -> None:
        self._spec = spec
        self._integrations = () if os.environ.get("WANDB_MODE") == "disabled" else spec.wandb
        self._reporter = reporter
        self._folder = folder
        self._metrics: queue.SimpleQueue[StepMetrics | None] = queue.SimpleQueue()
        self._exit_code = 0
        self._has_failed = False
        self._is_finished = False
        self._thread = threading.Thread(target=self._feed_until_closed, name="wandb", daemon=True)

    def log(self, metrics: StepMetrics) -> None:
        if self._integrations:
            self._metrics.put(metrics)

    def __enter__(self) -> "WandbRuns":
        if self._integrations:
            self._folder.mkdir()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._integrations:
            return
        if error is not None:
            is_preempted = isinstance(error, SystemExit) and error.code == ExitCode.PREEMPTED
            self._exit_code = ExitCode.PREEMPTED if is_preempted else 1
        self._metrics.put(None)
        self._thread.join(FINISH_TIMEOUT.total_seconds())
        if not self._is_finished:
            self._warn(f"it did not take the last metrics within {FINISH_TIMEOUT.seconds} s")
        if self._has_failed or _is_offline():
            try:
                self._keep_files()
            except OSError as error:
                self._warn(f"what it did not take could not be kept: {error}")

    def _feed_until_closed(self) -> None:
        try:
            self._feed([run for each in self._integrations if (run := self._start_if_possible(each)) is not None])
        except Exception as error:  # whatever the library raises, it is no reason to lose a training
            log.exception("Weights & Biases failed")
            self._warn(str(error) or type(error).__name__)
        self._is_finished = True

    def _feed(self, runs: list["Run"]) -> None:
        import wandb

        while (metrics := self._metrics.get()) is not None:
            for run in runs:
                run.log(_values(metrics), step=metrics.step)
        for run in runs:
            if self._exit_code == ExitCode.PREEMPTED:
                run.mark_preempting()
            run.finish(exit_code=self._exit_code)
        wandb.teardown()  # ends the library's own process: only then is everything in its files

    def _start_if_possible(self, integration: WandbSpec) -> "Run | None":
        try:
            return self._start(integration)
        except Exception as error:  # the other runs go on
            log.exception("Weights & Biases run %s cannot be started", integration.run_id)
            self._warn(str(error) or type(error).__name__)
            return None

    def _start(self, integration: WandbSpec) -> "Run":
        # Imported here because most jobs have no use for it.
        import wandb

        run = wandb.init(
            project=integration.project,
            entity=integration.entity,
            name=integration.name,
            tags=integration.tags,
            id=integration.run_id,
            resume="allow",  # a second attempt goes on in the same run
            reinit="create_new",  # several integrations are several runs at once
            dir=str(self._folder),
            config=_config(self._spec),
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            ),
        )
        if not _is_offline():
            self._tell("info", f"started-{integration.run_id}", f"Weights & Biases run started: {run.url}")
        return run

    def _keep_files(self) -> None:
        """The logs that `wandb sync` reads; the folders' names are what it expects."""
        for path in sorted(self._folder.glob("wandb/*run-*/run-*.wandb")):
            name = f"wandb/{path.parent.name}/{path.name}"
            artifacts.upload_file(path, f"{self._spec.output_uri}/{name}")
            log.info("kept for `wandb sync`: %s/%s", self._spec.output_uri, name)
        if _is_offline():
            message = (
                "Weights & Biases is offline on this server: the metrics were kept for `wandb sync`, in the object "
                f"storage under jobs/{self._spec.job_id}/."
            )
            self._tell("info", "kept", message)

    def _warn(self, reason: str) -> None:
        if self._has_failed:
            return
        self._has_failed = True
        key = os.environ.get("WANDB_API_KEY")
        reason = reason.replace(key, "…") if key else reason
        message = f"Weights & Biases failed: {reason}. The training is not affected."
        self._tell("warn", "failed", message)

    def _tell(self, level: Literal["info", "warn"], key: str, message: str) -> None:
        event = MessageEvent(created_at=time.time(), key=f"wandb-{key}", level=level, message=message)
        self._reporter.report(event)


def _is_offline() -> bool:
    return os.environ.get("WANDB_MODE") == "offline"


def _values(metrics: StepMetrics) -> dict[str, float]:
    return metrics.model_dump(exclude_none=True, exclude={"step", "total_steps"})


def _config(spec: JobSpec) -> dict[str, Any]:
    return {
        "job_id": spec.job_id,
        "model": spec.base_model.name,
        "seed": spec.seed,
        "method": spec.method.model_dump(mode="json"),
        "lora": spec.lora.model_dump(mode="json"),
    }
