"""How a job trains, as it is asked for and told: OpenAI's methods, those of `x_training`, and what is refused."""

from typing import Any

import httpx
import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.fixtures.refusals import refused_job
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, wait_until

MODEL = "fettle-tiny"
CHECK = {
    "type": "string_check",
    "name": "right",
    "input": "{{sample.output_text}}",
    "reference": "{{item.label}}",
    "operation": "eq",
}
SCORE = {"type": "score_model", "name": "judge", "model": MODEL, "input": [{"role": "user", "content": "?"}]}
PYTHON = {"type": "python", "name": "mine", "source": "def grade(sample, item):\n    return 1.0"}
PLAIN = {"batch_size": "auto", "learning_rate_multiplier": "auto", "n_epochs": "auto"}
REINFORCED = PLAIN | {
    "compute_multiplier": "auto",
    "eval_interval": "auto",
    "eval_samples": "auto",
    "reasoning_effort": "default",
}
VALIDATION_SECONDS = 60


@pytest.fixture(scope="module")
def training_file(service: RunningService) -> str:
    return service.upload(to_jsonl(chat_rows(12)))


def create(service: RunningService, **body: Any) -> dict[str, Any]:
    """Paused at once, so that it trains nothing. Strictly what OpenAI's types say."""
    answer = httpx.post(f"{service.url}/v1/fine_tuning/jobs", json={"model": MODEL} | body)
    assert answer.status_code == 200, answer.text
    job: dict[str, Any] = answer.json()
    service.client.fine_tuning.jobs.pause(job["id"])
    FineTuningJob.model_validate_json(answer.text, strict=True)
    return job


def reinforcement(grader: Any = CHECK, **block: Any) -> dict[str, Any]:
    return {"method": {"type": "reinforcement", "reinforcement": {"grader": grader} | block}}


def test_a_method_is_told_as_openais_clients_read_it(service: RunningService, training_file: str) -> None:
    method = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.5}}, "supervised": {"x": 1}, "reinforcement": {}}
    job = create(service, training_file=training_file, method=method, hyperparameters={"n_epochs": 2})
    expected = PLAIN | {"beta": 0.5, "n_epochs": 2}
    assert job["method"] == {"type": "dpo", "dpo": {"hyperparameters": expected}}
    assert job["hyperparameters"] == expected
    job = create(service, training_file=training_file, **reinforcement(hyperparameters={"eval_samples": "auto"}))
    block = {"grader": CHECK, "hyperparameters": REINFORCED}
    assert job["method"] == {"type": "reinforcement", "reinforcement": block}
    assert job["hyperparameters"] == REINFORCED


def test_a_method_that_openai_does_not_have_is_told_in_the_extension(
    service: RunningService, training_file: str
) -> None:
    asked = {"method": "kto", "undesirable_weight": 1.3}
    job = create(service, training_file=training_file, x_training=asked, hyperparameters={"n_epochs": 1})
    assert (job["method"], job["x_training"], job["x_resolved"]) == (None, asked, None)
    assert job["hyperparameters"] == PLAIN | {"n_epochs": 1}


def test_what_was_decided_is_told_with_its_source(service: RunningService, training_file: str) -> None:
    """The file is checked as one of the method, and cut where the job wants it."""
    asked = {"r": 8, "max_length": 24, "warmup_ratio": 0.0, "packing": False}
    job = create(service, training_file=training_file, x_training=asked)

    def told() -> Any:
        return service.client.fine_tuning.jobs.retrieve(job["id"]).to_dict()["x_resolved"]

    wait_until(lambda: told() is not None, VALIDATION_SECONDS, "the job was not validated")
    values = told()
    assert {name: values[name]["value"] for name in asked} == asked
    assert all(values[name]["source"] == "user" for name in asked)
    assert values["batch_size"] == {
        "value": 1,
        "source": "auto",
        "because": "the catalogue's 16 made smaller, for 8 steps an epoch of 12 rows",
    }
    assert values["target_modules"]["value"] == "all-linear"
    [receipt] = [event for event in service.events(job["id"]) if event.message.startswith("Training file receipt")]
    assert receipt.level == "warn", "rows of 25 tokens and more are cut"


def test_rows_of_another_method_fail_the_job_by_name(service: RunningService, training_file: str) -> None:
    job_id = create(service, training_file=training_file, method={"type": "dpo"})["id"]
    job = service.wait_for_job(job_id, timeout=VALIDATION_SECONDS)
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")


@pytest.mark.parametrize("grader", [PYTHON, {"type": "multi", "graders": {"a": CHECK}, "calculate_output": "a"}])
def test_graders_that_need_no_model_are_rewards(service: RunningService, training_file: str, grader: Any) -> None:
    """OpenAI's types know one grader in a `multi`, so this one is not read strictly."""
    body = {"model": MODEL, "training_file": training_file, **reinforcement(grader)}
    answer = httpx.post(f"{service.url}/v1/fine_tuning/jobs", json=body)
    assert answer.status_code == 200, answer.text
    service.client.fine_tuning.jobs.cancel(answer.json()["id"])
    told = answer.json()["method"]["reinforcement"]["grader"]
    assert {name: told[name] for name in grader} == grader


REINFORCEMENT = "method.reinforcement"
NUMBERS = f"{REINFORCEMENT}.hyperparameters"
MULTI = {"type": "multi", "graders": {"a": CHECK, "b": SCORE}, "calculate_output": "a + b"}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0}}}}, "method.dpo.hyperparameters.beta", "0"),
        (
            {"method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": 2.5}}}},
            "method.dpo.hyperparameters.beta",
            "2",
        ),
        ({"method": {"type": "dpo", "dpo": {"beta": 1}}}, "method.dpo.beta", "Unknown"),
        ({"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 1}}}}, "beta", "Unknown"),
        ({"method": {"type": "reinforcement"}}, f"{REINFORCEMENT}.grader", "Missing"),
        ({"method": {"type": "reinforcement", "reinforcement": {}}}, f"{REINFORCEMENT}.grader", "Missing"),
        (reinforcement(SCORE), f"{REINFORCEMENT}.grader.type", "no way to a model"),
        (reinforcement(MULTI), f"{REINFORCEMENT}.grader.graders.b.type", "no way to a model"),
        (reinforcement(CHECK | {"operation": "is"}), f"{REINFORCEMENT}.grader.operation", "'eq'"),
        (reinforcement(CHECK | {"input": "{{nothing.x}}"}), f"{REINFORCEMENT}.grader.input", "nothing"),
        (reinforcement(PYTHON | {"source": "def nothing(): pass"}), f"{REINFORCEMENT}.grader.source", "grade"),
        (reinforcement(response_format={"type": "json_object"}), f"{REINFORCEMENT}.response_format", "output_json"),
        (reinforcement(hyperparameters={"reasoning_effort": "high"}), f"{NUMBERS}.reasoning_effort", "reasons"),
        (reinforcement(hyperparameters={"compute_multiplier": 11}), f"{NUMBERS}.compute_multiplier", "10"),
        (reinforcement(hyperparameters={"compute_multiplier": 1e-5}), f"{NUMBERS}.compute_multiplier", "1e-05"),
        (reinforcement(hyperparameters={"eval_interval": 0}), f"{NUMBERS}.eval_interval", "1"),
        (reinforcement(hyperparameters={"eval_samples": 2}), f"{NUMBERS}.eval_samples", "validation_file"),
        (reinforcement(hyperparameters={"beta": 0.1}), f"{NUMBERS}.beta", "Unknown"),
        ({"hyperparameters": {"eval_samples": 2}, **reinforcement()}, "hyperparameters.eval_samples", "Unknown"),
    ],
    ids=str,
)
def test_a_method_that_cannot_be_run_as_asked_is_refused(
    service: RunningService, training_file: str, body: dict[str, Any], param: str, words: str
) -> None:
    error = refused_job(service, model=MODEL, training_file=training_file, **body)
    assert error["param"].endswith(param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"method": "magic"}, "'orpo'"),
        ({"rank": 4}, "Unknown parameter: 'rank'"),
        ({"r": 0}, "minimum of 1"),
        ({"r": True}, "not an integer"),
        ({"r": 17}, "16"),
        ({"adaptation": "dora"}, "DoRA"),
        ({"adaptation": "full"}, "whole model"),
        ({"lora_dropout": 1}, "lora_dropout"),
        ({"target_modules": ["q_proj", "wq"]}, "down_proj, gate_proj, k_proj"),
        ({"target_modules": ["lm_head"]}, "output head"),
        ({"target_modules": []}, "target_modules"),
        ({"target_modules": ["model.layers.0"]}, "target_modules"),
        ({"target_modules": "q_proj"}, "all-linear"),
        ({"init_lora_weights": "pissa"}, "'eva'"),
        ({"learning_rate": 0}, "minimum of 0"),
        ({"lr_scheduler_type": "polynomial"}, "'cosine'"),
        ({"warmup_ratio": 1.5}, "warmup_ratio"),
        ({"max_length": 1025}, "1024"),
        ({"max_length": 4}, "16"),
        ({"precision": "float16"}, "'bfloat16'"),
        ({"gradient_checkpointing": "sometimes"}, "gradient_checkpointing"),
        ({"beta": 0.1}, "'supervised'"),
        ({"desirable_weight": 2.0}, "'supervised'"),
        ({"samples_per_prompt": 4}, "'supervised'"),
        ({"max_completion_tokens": 4}, "'supervised'"),
        ({"temperature": 1.0}, "'supervised'"),
        ({"kl_beta": 0.0}, "'supervised'"),
        ({"keep": "best"}, "validation_file"),
        ({"eval_steps": 5}, "validation_file"),
        ({"early_stopping_patience": 2}, "validation_file"),
        ({"evaluation": {"rows": 5}}, "validation_file"),
        ({"evaluation": {"rows": 0, "grader": SCORE | {"model": "nobody"}}}, "nobody"),
    ],
    ids=str,
)
def test_an_extension_that_cannot_be_honoured_is_refused(
    service: RunningService, training_file: str, asked: dict[str, Any], words: str
) -> None:
    error = refused_job(service, model=MODEL, training_file=training_file, x_training=asked)
    assert error["param"].startswith(f"x_training.{next(iter(asked))}")
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"method": {"type": "supervised"}, "x_training": {"method": "orpo"}}, "method"),
        (
            {"hyperparameters": {"learning_rate_multiplier": 2.0}, "x_training": {"learning_rate": 1e-4}},
            "learning_rate",
        ),
        ({"method": {"type": "dpo"}, "x_training": {"beta": 0.1}}, "beta"),
        ({"x_training": {"method": "orpo", "desirable_weight": 2.0}}, "desirable_weight"),
        (reinforcement() | {"x_training": {"neftune_noise_alpha": 5.0}}, "neftune_noise_alpha"),
        (reinforcement() | {"x_training": {"samples_per_prompt": 1}}, "samples_per_prompt"),
        (reinforcement() | {"x_training": {"max_completion_tokens": 1020}}, "max_completion_tokens"),
        (reinforcement() | {"x_training": {"max_length": 1000, "max_completion_tokens": 30}}, "max_completion_tokens"),
    ],
    ids=str,
)
def test_what_contradicts_is_refused(
    service: RunningService, training_file: str, body: dict[str, Any], param: str
) -> None:
    error = refused_job(service, model=MODEL, training_file=training_file, **body)
    assert error["param"] == f"x_training.{param}"
    assert param in error["message"]
