"""What a trainer tells becomes events and checkpoints, for every method and whichever step is kept."""

from typing import Any

from service.dispatcher.progress import event_changes
from tests.fixtures.databases import job_row
from tuning.contract import CheckpointEvent, MetricsEvent, StepMetrics

NAME = "ft:m:org::12345678"


def checkpoint(step: int, is_result: bool | None) -> CheckpointEvent:
    metrics = StepMetrics(step=step, total_steps=4, train_loss=1.0)
    return CheckpointEvent(
        created_at=1.0, step=step, adapter_sha256=f"{step}" * 64, metrics=metrics, is_result=is_result
    )


def listed(*events: CheckpointEvent) -> tuple[list[tuple[int, str]], list[str]]:
    """Checkpoints, and the models that can be called before the job has succeeded."""
    change = event_changes(job_row(model_name=NAME, next_event_part=1), [list(events)])
    return [(row.step_number, row.model) for row in change.checkpoints], [model.name for model in change.models]


def test_the_last_checkpoint_is_the_model_whichever_step_was_kept() -> None:
    checkpoints, models = listed(checkpoint(2, False), checkpoint(4, False), checkpoint(2, True))
    assert checkpoints == [(2, f"{NAME}:ckpt-step-2"), (4, f"{NAME}:ckpt-step-4"), (2, NAME)]
    assert models == [f"{NAME}:ckpt-step-2", f"{NAME}:ckpt-step-4"]


def test_trainers_of_the_release_before_end_with_the_last_step() -> None:
    checkpoints, models = listed(checkpoint(2, None), checkpoint(4, None))
    assert checkpoints == [(2, f"{NAME}:ckpt-step-2"), (4, NAME)]
    assert models == [f"{NAME}:ckpt-step-2"]


def metrics_event(**measures: float) -> Any:
    event = MetricsEvent(created_at=1.0, metrics=StepMetrics(step=3, total_steps=10, **measures))
    [told] = event_changes(job_row(model_name=NAME, next_event_part=1), [[event]]).events
    return told


def test_rewards_are_told_beside_losses() -> None:
    measures = {"train_loss": 0.731, "train_reward_mean": 0.25, "train_reward_std": 0.1, "full_valid_reward_mean": 0.5}
    told = metrics_event(**measures)
    assert told.message == (
        "Step 3/10: training loss=0.73, training reward mean=0.25, full validation reward mean=0.50"
    )
    assert told.data == {"step": 3, "total_steps": 10} | measures


def test_a_supervised_step_is_told_as_openai_tells_it() -> None:
    told = metrics_event(train_loss=0.73, valid_loss=1.46, full_valid_loss=0.05)
    assert told.message == "Step 3/10: training loss=0.73, validation loss=1.46, full validation loss=0.05"
