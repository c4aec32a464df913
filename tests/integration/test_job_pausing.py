"""Pausing and resuming jobs that do not train yet, on both databases; those that do: `test_pause_resume.py`."""

from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService


def create(service: RunningService) -> FineTuningJob:
    return service.client.fine_tuning.jobs.create(
        model="fettle-tiny", training_file=service.upload(to_jsonl(chat_rows(10)))
    )


def is_paused(job: FineTuningJob) -> bool:
    assert job.model_extra is not None
    return bool(job.model_extra["paused"])


def test_a_job_is_held_from_its_creation_on_until_it_is_cancelled(service: RunningService) -> None:
    job = create(service)
    assert not is_paused(job)
    assert is_paused(service.client.fine_tuning.jobs.pause(job.id))
    job = service.wait_for_job(job.id, "queued")
    assert is_paused(job) and job.hyperparameters.n_epochs != "auto", "its files were checked"
    assert any(each.id == job.id and is_paused(each) for each in service.client.fine_tuning.jobs.list(limit=20))
    cancelled = service.client.fine_tuning.jobs.cancel(job.id)
    assert (cancelled.status, is_paused(cancelled)) == ("cancelled", False)


def test_a_job_that_fails_is_no_longer_paused(service: RunningService) -> None:
    job = service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=service.upload(b"{}\n"))
    service.client.fine_tuning.jobs.pause(job.id)
    failed = service.wait_for_job(job.id)
    assert (failed.status, is_paused(failed)) == ("failed", False)
    for call in (service.client.fine_tuning.jobs.pause, service.client.fine_tuning.jobs.resume):
        with pytest.raises(openai.BadRequestError, match="failed"):
            call(job.id)


def test_of_many_pauses_at_once_one_is_taken(service: RunningService) -> None:
    job = create(service)

    def call(name: str) -> bool:
        try:
            getattr(service.client.fine_tuning.jobs, name)(job.id)
        except openai.BadRequestError:
            return False
        return True

    for name in ("pause", "resume", "pause"):
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(call, [name] * 8)) == 1
    assert is_paused(service.client.fine_tuning.jobs.retrieve(job.id))
    service.client.fine_tuning.jobs.cancel(job.id)
