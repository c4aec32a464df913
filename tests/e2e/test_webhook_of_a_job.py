"""A job that is really trained is told to its project's endpoint, once, when its model is there."""

from pathlib import Path

import openai
import pytest

from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import StartService, wait_until
from tests.fixtures.webhook_receiver import WebhookReceiver

TRAINING_SECONDS = 180


@pytest.mark.slow
def test_a_succeeded_job_is_told_when_its_model_is_there(
    start_service: StartService, receiver: WebhookReceiver, tmp_path: Path
) -> None:
    service = start_service(tmp_path / "data", serving="off", webhook_allow_private="true")
    client = service.client
    endpoint = client.webhooks.create(
        name="All of them",
        url=f"{receiver.url}/x",
        event_types=["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"],
    )
    job = client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=service.upload(to_jsonl(chat_rows(10))),
        hyperparameters={"n_epochs": 1, "batch_size": 10},
    )
    wait_until(lambda: bool(receiver.received), TRAINING_SECONDS, "nothing came", tell=lambda: service.describe(job.id))
    [received] = receiver.received
    event = client.webhooks.unwrap(received.body, received.headers, secret=endpoint.signing_secret)
    assert isinstance(event, openai.types.webhooks.FineTuningJobSucceededWebhookEvent)
    ended = client.fine_tuning.jobs.retrieve(event.data.id)
    assert (ended.id, ended.status) == (job.id, "succeeded")
    assert ended.fine_tuned_model in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)
    assert len(receiver.received) == 1
