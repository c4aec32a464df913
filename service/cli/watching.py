"""A job followed to its end: its stages as bars or lines, its events as they come."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent

from service.cli.stages import Stage, Stages

FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
POLL_SECONDS = 0.25


@dataclass
class WatchedJob:
    """A finished job and the seconds from the start of watching to each turn; None for one that never came."""

    job: FineTuningJob
    validated: float | None
    first_step: float | None
    finished: float


def watch_job(client: OpenAI, job_id: str, stages: Stages, *, tell_events: bool) -> WatchedJob:
    """Returns when the job has ended, however it did."""
    started = time.monotonic()
    validation: Stage | None = stages.start("Validating")
    training: Stage | None = None
    validated = first_step = None
    for job, events in follow(client, job_id):
        if validation and job.status != "validating_files":
            validated = validation.finish()
            validation = None
        if training is None and job.status == "running":
            training = stages.start("Training")
        for event in events:
            data = metrics_of(event)
            if data is None:
                is_ending = job.error is not None and event.message == job.error.message  # the caller tells it
                if (tell_events or event.level != "info") and not is_ending:
                    stages.say(event.message)
                continue
            first_step = first_step or time.monotonic() - started
            training = training or stages.start("Training")
            training.advance_to(data["step"], data["total_steps"], metrics_text(data))
    if training:
        training.finish()
    return WatchedJob(job, validated, first_step, time.monotonic() - started)


def follow(client: OpenAI, job_id: str) -> Iterator[tuple[FineTuningJob, list[FineTuningJobEvent]]]:
    """The job with its new events, oldest first, until its end; the first time all events so far."""
    last_seen: str | None = None
    while True:
        job = client.fine_tuning.jobs.retrieve(job_id)  # before the events, so that none of a final job is missed
        events = []
        for event in client.fine_tuning.jobs.list_events(job_id, limit=100):  # newest first
            if event.id == last_seen:
                break
            events.append(event)
        if events:
            last_seen = events[0].id
        yield job, events[::-1]
        if job.status in FINAL_STATUSES:
            return
        time.sleep(POLL_SECONDS)


def metrics_of(event: FineTuningJobEvent) -> dict[str, Any] | None:
    return event.data if event.type == "metrics" and isinstance(event.data, dict) else None


def metrics_text(data: dict[str, Any]) -> str:
    names = (("train_loss", "loss"), ("valid_loss", "validation loss"), ("full_valid_loss", "full validation loss"))
    values = (f"{name} {data[key]:.3f}" for key, name in names if data.get(key) is not None)
    return ", ".join((f"step {data['step']}/{data['total_steps']}", *values))
