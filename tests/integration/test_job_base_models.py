"""Which models a job may start from: the catalogue's, and tuned ones and checkpoints that the caller may use."""

import openai
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from tests.fixtures.projects import Organization, TunedModel


@pytest.fixture
def tuned(organization: Organization) -> TunedModel:
    return organization.service.add_tuned_model(organization.project_id, organization.name)


def create(client: OpenAI, model: str) -> FineTuningJob:
    """Its file fails the job right afterwards."""
    file = client.files.create(file=("rows.jsonl", b"{}\n"), purpose="fine-tune")
    return client.fine_tuning.jobs.create(model=model, training_file=file.id, suffix="again")


def refusal(client: OpenAI, model: str) -> str:
    with pytest.raises(openai.BadRequestError) as error:
        create(client, model)
    assert (error.value.code, error.value.param) == ("model_not_available", "model")
    return str(error.value.body["message"])  # type: ignore[index]


def test_a_job_goes_on_from_a_tuned_model_or_a_checkpoint(organization: Organization, tuned: TunedModel) -> None:
    client = organization.client_of(organization.project_id)
    for name in (tuned.name, tuned.checkpoint_name):
        job = create(client, name)
        assert client.fine_tuning.jobs.retrieve(job.id).model == job.model == name


def test_a_deleted_model_is_no_base(organization: Organization, tuned: TunedModel) -> None:
    client = organization.client_of(organization.project_id)
    client.models.delete(tuned.name)
    assert refusal(client, tuned.name).startswith(
        f"Model {tuned.name} is not available for fine-tuning or does not exist."
    )
    assert create(client, tuned.checkpoint_name).model == tuned.checkpoint_name


def test_another_projects_model_is_a_base_only_while_that_is_permitted(
    organization: Organization, tuned: TunedModel
) -> None:
    other_id = organization.new_project()
    other = organization.client_of(other_id)
    unknown = tuned.name[:-8] + "00000000"
    assert refusal(other, tuned.name).replace(tuned.name, "") == refusal(other, unknown).replace(unknown, "")
    permissions = organization.client.fine_tuning.checkpoints.permissions
    [permission] = permissions.create(tuned.name, project_ids=[other_id]).data
    assert create(other, tuned.name).model == tuned.name
    permissions.delete(permission.id, fine_tuned_model_checkpoint=tuned.name)
    refusal(other, tuned.name)


@pytest.mark.parametrize("name", ["ft:", "ft:fettle-tiny:x::../../etc", "\x07", "é" * 1000, ""], ids=ascii)
def test_a_name_of_no_model_is_refused(organization: Organization, name: str) -> None:
    refusal(organization.client_of(organization.project_id), name)
