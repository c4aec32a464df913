"""Scripts written for Azure work unchanged: its paths, its header, its `api-version`, through its own client."""

import httpx
import openai
import pytest
from openai import AzureOpenAI

from tests.fixtures.projects import GuardedService, Organization
from tests.fixtures.service import RunningService

VERSION = "2024-10-21"


@pytest.fixture
def azure(organization: Organization, guarded_service: GuardedService) -> AzureOpenAI:
    key = organization.key(organization.project_id)
    return AzureOpenAI(azure_endpoint=guarded_service.url, api_key=key, api_version=VERSION, max_retries=0, timeout=60)


def test_files_live_their_life(azure: AzureOpenAI) -> None:
    file = azure.files.create(file=("rows.jsonl", b"{}\n"), purpose="fine-tune")
    assert [each.id for each in azure.files.list()] == [file.id]
    assert azure.files.retrieve(file.id) == file
    assert azure.files.content(file.id).read() == b"{}\n"
    assert azure.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError) as error:
        azure.files.retrieve(file.id)
    assert error.value.message.endswith(f"No such File object: {file.id}")
    assert error.value.param == "id"


def test_jobs_live_their_life(azure: AzureOpenAI) -> None:
    file = azure.files.create(file=("rows.jsonl", b"{}\n"), purpose="fine-tune")
    job = azure.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=file.id,
        suffix="azure",
        seed=7,
        extra_body={"trainingType": "GlobalStandard"},
    )
    assert job.status == "validating_files"
    assert not hasattr(job, "trainingType")
    assert [each.id for each in azure.fine_tuning.jobs.list(limit=10)] == [job.id]
    assert azure.fine_tuning.jobs.retrieve(job.id).seed == 7
    assert azure.fine_tuning.jobs.list_events(job.id).data[-1].message == f"Created fine-tuning job: {job.id}"
    assert azure.fine_tuning.jobs.checkpoints.list(job.id).data == []
    try:
        assert azure.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    except openai.BadRequestError:  # its file is bad, so that it may have failed before
        assert azure.fine_tuning.jobs.retrieve(job.id).status == "failed"


def test_uploads_and_models_are_there_too(azure: AzureOpenAI) -> None:
    assert "fettle-tiny" in [model.id for model in azure.models.list()]
    assert azure.models.retrieve("fettle-tiny").owned_by
    upload = azure.uploads.create(bytes=3, filename="rows.jsonl", mime_type="application/jsonl", purpose="fine-tune")
    part = azure.uploads.parts.create(upload.id, data=b"{}\n")
    assert azure.uploads.complete(upload.id, part_ids=[part.id]).status == "completed"


@pytest.mark.parametrize("training_type", ["Standard", "DeveloperTier", None])
def test_a_training_type_changes_nothing(azure: AzureOpenAI, training_type: object) -> None:
    body = {"model": "fettle-tiny", "training_file": "file-x", "trainingType": training_type}
    with pytest.raises(openai.BadRequestError) as error:
        azure.post("/fine_tuning/jobs", body=body, cast_to=object)
    assert error.value.param == "training_file"


@pytest.mark.parametrize("prefix", ["/openai", "/openai/v1", "/v1"])
def test_the_same_operations_answer_under_each_prefix(service: RunningService, prefix: str) -> None:
    file_id = service.upload(b"{}\n")
    answer = httpx.get(f"{service.url}{prefix}/files/{file_id}", params={"api-version": VERSION})
    assert (answer.status_code, answer.json()["id"]) == (200, file_id)
    for path in (f"{prefix}/nothing", f"{prefix}/files/", f"{prefix}{prefix}/files"):
        answer = httpx.get(service.url + path)
        assert answer.status_code == 404, path
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_the_model_of_the_path_is_the_one_asked(service: RunningService, path: str) -> None:
    url = f"{service.url}/openai/deployments/fettle-tiny/{path}"
    answer = httpx.post(url, params={"api-version": VERSION}, json={"messages": [], "prompt": ""})
    assert "FETTLE_SERVING=off" in answer.json()["error"]["message"]  # it has found its operation
    for unknown in ("deployments/fettle-tiny/embeddings", "deployments/fettle-tiny", "deployments//chat/completions"):
        assert httpx.post(f"{service.url}/openai/{unknown}", json={}).status_code == 404, unknown


def test_nobody_gets_in_without_a_key(guarded_service: GuardedService) -> None:
    for client in (
        AzureOpenAI(azure_endpoint=guarded_service.url, api_key="wrong", api_version=VERSION, max_retries=0),
        AzureOpenAI(azure_endpoint=guarded_service.url, azure_ad_token="wrong", api_version=VERSION, max_retries=0),
    ):
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
