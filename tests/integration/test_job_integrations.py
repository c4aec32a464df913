"""Integrations of a job as the API takes and shows them; what becomes of them is the trainer's (test_wandb_runs.py)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.fixtures.service import RunningService, StartService, keep_running


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    data_dir = tmp_path_factory.mktemp("wandb") / "data"
    yield from keep_running(RunningService(data_dir, serving="off", wandb_mode="offline"))


def create(service: RunningService, integrations: Any) -> FineTuningJob:
    """Its file fails the job right afterwards."""
    return service.client.fine_tuning.jobs.create(
        model="fettle-tiny", training_file=service.upload(b"{}\n"), integrations=integrations
    )


def wandb(**options: Any) -> dict[str, Any]:
    return {"type": "wandb", "wandb": {"project": "sums"} | options}


def shown(job: FineTuningJob) -> list[dict[str, Any]]:
    assert job.integrations is not None
    return [integration.to_dict() for integration in job.integrations]


def test_the_job_shows_its_runs_with_ids_that_stay(offline: RunningService) -> None:
    job = create(offline, [wandb(name="the first", entity="a-team", tags=["a"]), wandb()])
    first, second = shown(job)
    run_ids = [each["wandb"].pop("run_id") for each in (first, second)]
    assert first == wandb(name="the first", entity="a-team", tags=["a"])
    assert second == wandb(name=job.id, entity=None, tags=[])
    assert len(set(run_ids)) == 2 and all(run_id.isalnum() for run_id in run_ids)
    again = offline.client.fine_tuning.jobs.retrieve(job.id)
    assert [each["wandb"]["run_id"] for each in shown(again)] == run_ids


@pytest.mark.parametrize("integrations", [None, []])
def test_a_job_without_integrations_has_none(service: RunningService, integrations: Any) -> None:
    assert create(service, integrations).integrations == []


def test_five_integrations_are_the_most(offline: RunningService) -> None:
    assert len(shown(create(offline, [wandb()] * 5))) == 5
    with pytest.raises(openai.BadRequestError, match="integrations"):
        create(offline, [wandb()] * 6)


@pytest.mark.parametrize(
    ("integration", "param"),
    [
        ({"type": "tensorboard", "wandb": {"project": "p"}}, "integrations.0.type"),
        ({"type": "wandb"}, "integrations.0.wandb"),
        ({"type": "wandb", "wandb": {}}, "integrations.0.wandb.project"),
        ({"type": "wandb", "wandb": None}, "integrations.0.wandb"),
        (wandb(project=""), "integrations.0.wandb.project"),
        (wandb(project="a/b"), "integrations.0.wandb.project"),
        (wandb(project="x" * 129), "integrations.0.wandb.project"),
        (wandb(entity="../.."), "integrations.0.wandb.entity"),
        (wandb(name="\x07"), "integrations.0.wandb.name"),
        (wandb(tags="a"), "integrations.0.wandb.tags"),
        (wandb(tags=["x" * 65]), "integrations.0.wandb.tags.0"),
        (wandb(tags=["x"] * 65), "integrations.0.wandb.tags"),
        (wandb(api_key="secret"), "integrations.0.wandb.api_key"),
        (wandb(run_id="mine"), "integrations.0.wandb.run_id"),
    ],
)
def test_a_wrong_integration_is_refused_with_its_field(
    offline: RunningService, integration: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        create(offline, [integration])
    assert error.value.param == param
    assert param.rpartition(".")[2] in str(error.value) or param.endswith(".0")


def test_without_a_key_the_job_is_refused_with_the_setting_that_is_missing(service: RunningService) -> None:
    with pytest.raises(openai.BadRequestError, match="WANDB_API_KEY") as error:
        create(service, [wandb()])
    assert (error.value.param, error.value.code) == ("integrations", "wandb_not_authenticated")


def test_where_it_is_switched_off_the_job_is_refused(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(tmp_path / "data", serving="off", wandb_mode="disabled", wandb_api_key="4f" * 20)
    with pytest.raises(openai.BadRequestError, match="switched off"):
        create(service, [wandb()])
