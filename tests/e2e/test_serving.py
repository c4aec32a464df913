"""From a file to an answering model, through the stock client and a real vLLM on the CPU."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
GRADER = {
    "type": "text_similarity",
    "name": "calls a tool",
    "input": "{{sample.output_tools[0].function.name}}",
    "reference": "{{item.tools[0].function.name}}",
    "evaluation_metric": "fuzzy_match",
}
JOB_SECONDS = 300  # training, and the start of vLLM


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("serving")
    yield from keep_running(RunningService(folder / "data", serving_wait="PT300S", max_running_jobs="2"))


@pytest.fixture(scope="module")
def job(serving: RunningService) -> FineTuningJob:
    rows = (EXAMPLES / "train.jsonl").read_bytes().splitlines(keepends=True)[:200]
    held_out = (EXAMPLES / "held_out.jsonl").read_bytes().splitlines(keepends=True)[:8]
    created = serving.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=serving.upload(b"".join(rows)),
        validation_file=serving.upload(b"".join(held_out)),
        hyperparameters={"n_epochs": 2, "batch_size": 16},
        suffix="home",
        extra_body={"x_training": {"evaluation": {"rows": 8, "grader": GRADER}}},
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


def test_the_job_tells_how_much_better_the_tuned_model_answers_held_out_rows(
    serving: RunningService, job: FineTuningJob, questions: list[dict[str, Any]]
) -> None:
    assert job.model_extra is not None
    evaluation = job.model_extra["evaluation"]
    assert (evaluation["status"], evaluation["baseline"], evaluation["rows"]) == ("completed", "fettle-tiny", 8)
    for model, when in (("fettle-tiny", "before"), (job.fine_tuned_model or "", "after")):
        right = sum(called(ask(serving, model, row).choices[0].message) == called_in(row) for row in questions)
        assert evaluation["exact_match"][when] == right / len(questions)
    assert evaluation["loss"]["after"] < evaluation["loss"]["before"]
    assert evaluation["token_accuracy"]["after"] > evaluation["token_accuracy"]["before"]
    assert evaluation["grader"]["after"] > evaluation["grader"]["before"]
    sample = evaluation["samples"][0]
    assert sample["question"] == questions[0]["messages"][-2]["content"]
    assert sample["expected"].startswith(questions[0]["messages"][-1]["tool_calls"][0]["function"]["name"])
    [told] = [event.message for event in serving.events(job.id) if "held-out rows" in event.message]
    assert "exact match 0 →" in told


def called(message: Any) -> Any:
    """The text, and each call's name and arguments."""
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
    return (message.content or "").strip(), calls


def called_in(row: dict[str, Any]) -> Any:
    wanted = row["messages"][-1]
    calls = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in wanted["tool_calls"]]
    return (wanted.get("content") or "").strip(), calls


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
        [trained_on] = renderer.render(parse_row(json.dumps(row).encode(), 1)).sequences
        prompt = list(trained_on.input_ids[: trained_on.is_supervised.index(1)])
        assert answer.prompt_token_ids == prompt


def test_prompts_are_scored_for_several_models_at_once_and_the_engine_lives(
    serving: RunningService, job: FineTuningJob
) -> None:
    """Our repair of the CPU build: alone it ends the engine, and all requests with it."""

    def score(model: str) -> list[float]:
        options = {"prompt_logprobs": 0}
        answer = serving.client.completions.create(
            model=model, prompt="The lamp in the kitchen", max_tokens=1, temperature=0, extra_body=options
        )
        assert answer.choices[0].model_extra is not None
        scores = answer.choices[0].model_extra["prompt_logprobs"][1:]
        return [next(iter(each.values()))["logprob"] for each in scores]

    models = ["fettle-tiny", job.fine_tuned_model or ""]
    alone = [score(model) for model in models]
    assert alone[0] != alone[1]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(score, models * 4))
    for scores, expected in zip(together, alone * 4, strict=True):
        assert scores == pytest.approx(expected, abs=1e-3)


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


def test_reinforcement_as_documented_makes_the_reward_of_served_answers_rise(serving: RunningService) -> None:
    root = EXAMPLES.parents[1]
    [code] = re.findall(r"```python\n(import json.*?)```", (root / "docs" / "reinforcement.md").read_text(), re.DOTALL)
    code = code.replace("http://127.0.0.1:8000", serving.url).replace('"examples/', f'"{root}/examples/')
    names: dict[str, Any] = {}
    exec(code, names)
    job: FineTuningJob = names["job"]
    assert job.status == "succeeded", serving.describe(job.id)
    assert job.method is not None and job.method.type == "reinforcement"

    rows = (root / "examples" / "reinforcement" / "held_out.jsonl").read_text().splitlines()
    grader = json.loads((root / "examples" / "reinforcement" / "grader.json").read_text())
    exec(grader["source"], names)
    rewards = {"fettle-tiny": 0.0, job.fine_tuned_model or "": 0.0}
    for model in rewards:
        for row in map(json.loads, rows):
            answer = serving.client.chat.completions.create(
                model=model, messages=row["messages"], temperature=0, max_tokens=24
            )
            with suppress(ValueError):
                sample = {"output_json": json.loads(answer.choices[0].message.content or "")}
                rewards[model] += names["grade"](sample, row) / len(rows)
    before, after = rewards.values()
    assert after > before + 0.2, rewards
    events = serving.events(job.id)
    metrics = [event.data for event in events if event.type == "metrics"]
    assert metrics[-1]["train_reward_mean"] > metrics[0]["train_reward_mean"] + 0.2
    assert metrics[-1]["full_valid_reward_mean"] > metrics[0]["valid_reward_mean"] + 0.2
    assert any(event.message.startswith("Validation after step 10: best answer (reward ") for event in events)


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
