"""What a trainer told: event parts read from storage in order, and what they change."""

import time

from pydantic import TypeAdapter

from service.database.tables import CheckpointRow, JobRow, ModelRow
from service.dispatcher.change import Change
from service.dispatcher.parts import run_prefix
from service.fine_tuning.repository import NewEvent
from service.ids import new_checkpoint_id
from service.object_storage.base import ObjectNotFound, ObjectStorage
from tuning.contract import (
    CheckpointEvent,
    FinishedEvent,
    JobResult,
    MessageEvent,
    MetricsEvent,
    StartedEvent,
    StateSavedEvent,
    StepMetrics,
    TrainingEvent,
    event_part_name,
    state_name,
)

MAX_PARTS_A_STEP = 100  # after a long pause of the service: events appear in portions, not in one huge transaction

_TOLD_MEASURES = {
    "train_loss": "training loss",
    "valid_loss": "validation loss",
    "full_valid_loss": "full validation loss",
    "train_reward_mean": "training reward mean",
    "valid_reward_mean": "validation reward mean",
    "full_valid_reward_mean": "full validation reward mean",
    "train_reward_accuracy": "training reward accuracy",
    "valid_reward_accuracy": "validation reward accuracy",
    "full_valid_reward_accuracy": "full validation reward accuracy",
}
"""In the message of an event; its data has all measures."""

_TRAINING_EVENT: TypeAdapter[TrainingEvent] = TypeAdapter(TrainingEvent)

Part = list[TrainingEvent]


async def read_events(storage: ObjectStorage, run_prefix: str, next_part: int) -> tuple[list[Part], bool]:
    """The parts from number `next_part` on, and whether there may be more of them."""
    parts: list[Part] = []
    while len(parts) < MAX_PARTS_A_STEP:
        try:
            content = await storage.get_bytes(run_prefix + event_part_name(next_part + len(parts)))
        except ObjectNotFound:
            return parts, False
        parts.append([_TRAINING_EVENT.validate_json(line) for line in content.splitlines()])
    return parts, True


def result_in(parts: list[Part]) -> JobResult | None:
    """A trainer that told it may die before it has stored it, too."""
    return next((event.result for part in parts for event in part if isinstance(event, FinishedEvent)), None)


def event_changes(job: JobRow, parts: list[Part]) -> Change:
    change = Change()
    for part_number, part in enumerate(parts, start=job.next_event_part):
        for index, event in enumerate(part):
            key = f"{job.attempt}-{part_number}-{index}"
            match event:
                case StartedEvent():
                    if event.resumed_step:  # the dispatcher's own event already told the start itself
                        message = f"Training goes on after step {event.resumed_step} of {event.total_steps}"
                        change.events.append(NewEvent(key=key, message=message, created_at=event.created_at))
                case MetricsEvent():
                    change.events.append(_metrics_event(event))
                    if event.seconds_left is not None:
                        change.columns["estimated_finish"] = event.created_at + event.seconds_left
                case CheckpointEvent():
                    _add_checkpoint(change, job, event)
                case StateSavedEvent():
                    change.columns["resume_from"] = f"{run_prefix(job)}/{event.folder or state_name(event.step)}"
                case MessageEvent():
                    key = f"told-{event.key}" if event.key else key
                    change.events.append(
                        NewEvent(key=key, level=event.level, message=event.message, created_at=event.created_at)
                    )
    return change


def _metrics_event(event: MetricsEvent) -> NewEvent:
    data = event.metrics.model_dump(exclude_none=True)
    told = [f"{words}={data[name]:.2f}" for name, words in _TOLD_MEASURES.items() if name in data]
    return NewEvent(
        key=f"step-{event.metrics.step}",
        type="metrics",
        message=f"Step {event.metrics.step}/{event.metrics.total_steps}: {', '.join(told)}",
        data=data,
        created_at=event.created_at,
    )


def _add_checkpoint(change: Change, job: JobRow, event: CheckpointEvent) -> None:
    """The last one is the tuned model itself: it is listed under that name, and exists once the job has succeeded. Its
    step may be an earlier one, which has a checkpoint of its own then."""
    is_result = event.step == event.metrics.total_steps if event.is_result is None else event.is_result
    name = job.model_name if is_result else f"{job.model_name}:ckpt-step-{event.step}"
    change.checkpoints.append(
        CheckpointRow(
            id=new_checkpoint_id(),
            job_id=job.id,
            created_at=event.created_at,
            step_number=event.step,
            model=name,
            adapter_sha256=event.adapter_sha256,
            metrics=_checkpoint_metrics(event.metrics),
        )
    )
    if is_result:
        return
    change.models.append(
        ModelRow(
            project_id=job.project_id,
            name=name,
            job_id=job.id,
            created_at=time.time(),
            base_model=job.base_model,
            adapter_sha256=event.adapter_sha256,
        )
    )
    message = f"Checkpoint created at step {event.step} with Snapshot ID: {name}"
    change.events.append(NewEvent(key=f"checkpoint-{event.step}", message=message, created_at=event.created_at))


def _checkpoint_metrics(metrics: StepMetrics) -> dict[str, float]:
    return metrics.model_dump(exclude_none=True, exclude={"total_steps"})
