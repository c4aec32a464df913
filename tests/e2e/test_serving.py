"""From a file to an answering model, through the stock client and a real vLLM on the CPU."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AzureOpenAI
from openai.types.fine_tuning import FineTuningJob

from service.processes import DetachedProcess
from tests.fixtures.service import RunningService, keep_running
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue
from tuning.data.formats import parse_row
from tuning.data.rendering import ChatRenderer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system"),
]

EXAMPLES = Path(__file__).parents[2] / "examples" / "tool_calls"
JOB_SECONDS = 300  # training, and the start of vLLM


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("serving")
    yield from keep_running(RunningService(folder / "data", serving_wait="PT300S", max_running_jobs="2"))


@pytest.fixture(scope="module")
def job(serving: RunningService) -> FineTuningJob:
    rows = (EXAMPLES / "train.jsonl").read_bytes().splitlines(keepends=True)[:200]
    created = serving.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=serving.upload(b"".join(rows)),
        hyperparameters={"n_epochs": 2, "batch_size": 16},
        suffix="home",
    )
    ended = serving.wait_for_job(created.id, timeout=JOB_SECONDS)
    assert ended.status == "succeeded", serving.describe(created.id)
    assert not [event for event in serving.events(created.id) if event.level == "warn"]
    return ended


@pytest.fixture(scope="module")
def questions() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EXAMPLES / "held_out.jsonl").read_text().splitlines()[:8]]


def ask(serving: RunningService, model: str, row: dict[str, Any], **options: Any) -> Any:
    return serving.client.chat.completions.create(
        model=model, messages=row["messages"][:-1], tools=row["tools"], temperature=0, max_tokens=96, **options
    )


def test_the_tuned_model_answers_under_its_own_name_and_other_than_its_base(
    serving: RunningService, job: FineTuningJob, questions: list[dict[str, Any]]
) -> None:
    assert job.fine_tuned_model is not None
    tuned = [ask(serving, job.fine_tuned_model, row) for row in questions]
    base = [ask(serving, "fettle-tiny", row) for row in questions]
    assert {answer.model for answer in tuned} == {job.fine_tuned_model}
    assert {answer.model for answer in base} == {"fettle-tiny"}
    assert [answer.choices for answer in tuned] != [answer.choices for answer in base]
    calls = [answer.choices[0].message.tool_calls for answer in tuned]
    assert sum(call is not None for call in calls) >= len(calls) // 2, "the tuned model hardly calls tools"


def test_a_streamed_answer_is_the_same_as_a_whole_one(
    serving: RunningService, job: FineTuningJob, questions: list[dict[str, Any]]
) -> None:
    assert job.fine_tuned_model is not None
    prompt = "The lamp in the"
    whole = serving.client.completions.create(model=job.fine_tuned_model, prompt=prompt, max_tokens=16, temperature=0)
    stream = serving.client.completions.create(
        model=job.fine_tuned_model, prompt=prompt, max_tokens=16, temperature=0, stream=True
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert {chunk.model for chunk in chunks} == {job.fine_tuned_model}


def test_vllm_reads_the_same_token_ids_that_training_rendered(
    serving: RunningService, job: FineTuningJob, questions: list[dict[str, Any]]
) -> None:
    entry = Catalogue.load(DEFAULT_CATALOGUE).get("fettle-tiny")
    assert entry is not None
    assert job.fine_tuned_model is not None
    renderer = ChatRenderer.from_entry(entry)
    for row in questions:
        answer = ask(serving, job.fine_tuned_model, row, extra_body={"return_token_ids": True})
        trained_on = renderer.render(parse_row(json.dumps(row).encode(), 1))
        prompt = list(trained_on.input_ids[: trained_on.is_supervised.index(1)])
        assert answer.prompt_token_ids == prompt


def test_a_checkpoint_is_a_model_too(
    serving: RunningService, job: FineTuningJob, questions: list[dict[str, Any]]
) -> None:
    older = serving.client.fine_tuning.jobs.checkpoints.list(job.id).data[-1]
    assert older.fine_tuned_model_checkpoint.endswith(":ckpt-step-13")
    answer = ask(serving, older.fine_tuned_model_checkpoint, questions[0])
    assert answer.model == older.fine_tuned_model_checkpoint


def test_azures_client_asks_the_model_of_its_deployment(
    serving: RunningService, job: FineTuningJob, questions: list[dict[str, Any]]
) -> None:
    assert job.fine_tuned_model is not None
    row = questions[0]

    def said(answer: Any) -> tuple[str, list[Any]]:
        message = answer.choices[0].message
        return message.content, [call.function for call in message.tool_calls or []]  # each call has an id of its own

    expected = said(ask(serving, job.fine_tuned_model, row))
    options: dict[str, Any] = {"messages": row["messages"][:-1], "tools": row["tools"], "temperature": 0}
    azure = AzureOpenAI(azure_endpoint=serving.url, api_key="any", api_version="2024-10-21", timeout=120)
    answer = azure.chat.completions.create(model=job.fine_tuned_model, max_tokens=96, **options)
    assert (answer.model, said(answer)) == (job.fine_tuned_model, expected)
    deployed = AzureOpenAI(
        azure_endpoint=serving.url,
        azure_deployment=job.fine_tuned_model,
        api_key="any",
        api_version="2024-10-21",
        timeout=120,
    )
    answer = deployed.chat.completions.create(model="fettle-tiny", max_tokens=96, **options)
    assert (answer.model, said(answer)) == (job.fine_tuned_model, expected)
    assert deployed.completions.create(model="any", prompt="The lamp", max_tokens=4).model == job.fine_tuned_model
    assert job.id in [each.id for each in deployed.fine_tuning.jobs.list()]


def test_a_permitted_project_asks_the_model_and_loses_it_at_once(
    serving: RunningService, job: FineTuningJob, questions: list[dict[str, Any]]
) -> None:
    assert job.fine_tuned_model is not None
    admin = serving.client.with_options(admin_api_key="any")
    project_id = admin.admin.organization.projects.create(name="another").id
    headers = {"OpenAI-Project": project_id}
    permissions = admin.fine_tuning.checkpoints.permissions
    with pytest.raises(openai.NotFoundError):
        ask(serving, job.fine_tuned_model, questions[0], extra_headers=headers)
    [permission] = permissions.create(job.fine_tuned_model, project_ids=[project_id]).data
    assert ask(serving, job.fine_tuned_model, questions[0], extra_headers=headers).model == job.fine_tuned_model
    permissions.delete(permission.id, fine_tuned_model_checkpoint=job.fine_tuned_model)
    with pytest.raises(openai.NotFoundError) as error:
        ask(serving, job.fine_tuned_model, questions[0], extra_headers=headers)
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize("model", ["ft:fettle-tiny:fettle:home:12345678", "../fettle-tiny", "0" * 64, ""])
def test_a_model_that_is_not_ours_is_not_found(serving: RunningService, model: str) -> None:
    answer = httpx.post(f"{serving.url}/v1/chat/completions", json={"model": model, "messages": []})
    assert answer.status_code in (400, 404)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_killed_service_finds_its_vllm_again(
    serving: RunningService, job: FineTuningJob, questions: list[dict[str, Any]]
) -> None:
    assert job.fine_tuned_model is not None
    [run] = (serving.data_dir / "serving" / "fettle-tiny" / "runs").iterdir()
    serving.kill()
    assert DetachedProcess(run).is_alive()
    serving.start()
    assert ask(serving, job.fine_tuned_model, questions[0]).choices
    assert [run] == list((serving.data_dir / "serving" / "fettle-tiny" / "runs").iterdir())


def test_a_deleted_model_answers_404_at_once(
    serving: RunningService, job: FineTuningJob, questions: list[dict[str, Any]]
) -> None:
    assert job.fine_tuned_model is not None
    serving.client.models.delete(job.fine_tuned_model)
    with pytest.raises(openai.NotFoundError) as error:
        ask(serving, job.fine_tuned_model, questions[0])
    assert error.value.code == "model_not_found"


def test_a_stopped_service_leaves_no_vllm_behind(serving: RunningService, job: FineTuningJob) -> None:
    runs = [DetachedProcess(run) for run in (serving.data_dir / "serving" / "fettle-tiny" / "runs").iterdir()]
    serving.stop()
    assert [run.is_alive() for run in runs] == [False]
