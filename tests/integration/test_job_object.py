"""A job shows what it was asked for, in every field that strict clients read."""

from typing import Any

import httpx
import pytest

from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService

AUTO = {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"}


def create(service: RunningService, **body: Any) -> dict[str, Any]:
    """As curl sees it. Paused at once, so that it trains nothing."""
    file_id = service.upload(to_jsonl(chat_rows(10)))
    body = {"model": "fettle-tiny", "training_file": file_id} | body
    answer = httpx.post(f"{service.url}/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    job = dict(answer.json())
    service.client.fine_tuning.jobs.pause(job["id"])
    service.client.fine_tuning.jobs.cancel(job["id"])
    return job


@pytest.mark.parametrize("hyperparameters", [{}, None, {"n_epochs": "auto"}], ids=str)
def test_hyperparameters_that_were_not_given_are_auto(service: RunningService, hyperparameters: Any) -> None:
    job = create(service, hyperparameters=hyperparameters)
    assert job["hyperparameters"] == AUTO
    assert job["method"] == {"type": "supervised", "supervised": {"hyperparameters": AUTO}}


def test_the_methods_hyperparameters_win_over_the_old_field(service: RunningService) -> None:
    method = {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 3}},
        "dpo": {"hyperparameters": {"beta": 0.1}},
        "reinforcement": {},
    }
    job = create(service, method=method, hyperparameters={"n_epochs": 2, "batch_size": 4})
    assert job["hyperparameters"] == AUTO | {"n_epochs": 3, "batch_size": 4}
    assert job["method"]["supervised"]["hyperparameters"] == job["hyperparameters"]


def test_a_new_job_has_every_field(service: RunningService) -> None:
    job = create(service, suffix="my model", seed=0, metadata={"a": "b"})
    expected = {
        "object": "fine_tuning.job",
        "status": "validating_files",
        "paused": False,
        "model": "fettle-tiny",
        "fine_tuned_model": None,
        "error": None,
        "finished_at": None,
        "estimated_finish": None,
        "trained_tokens": None,
        "result_files": [],
        "validation_file": None,
        "seed": 0,
        "user_provided_suffix": "my model",
        "metadata": {"a": "b"},
        "integrations": [],
        "usage_metrics": None,
        "shared_with_openai": False,
        "eval_id": None,
    }
    assert {name: job[name] for name in expected} == expected
    assert 0 <= create(service)["seed"] < 2**31
