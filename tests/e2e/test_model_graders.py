"""score_model and label_model asked of a real vLLM: through the gateway, and as a configured endpoint.

The little model judges badly and is often cut off amid spaces, which JSON allows without end: then a flag says so.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.fine_tuning.alpha import GraderRunResponse

from tests.fixtures.catalogues import catalogue_with_copied_model
from tests.fixtures.service import RunningService, keep_running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system"),
]

SCORE: dict[str, Any] = {
    "type": "score_model",
    "name": "judged",
    "model": "fettle-tiny",
    "input": [
        {"role": "system", "content": "Score the answer."},
        {"role": "user", "content": [{"type": "input_text", "text": "{{item.label}} or {{sample.output_text}}?"}]},
    ],
    "range": [0, 10],
    "sampling_params": {"temperature": 1.5, "seed": 3, "max_completions_tokens": 48},
}
LABEL: dict[str, Any] = {
    "type": "label_model",
    "name": "labelled",
    "model": "fettle-tiny",
    "input": [{"role": "user", "content": "{{sample.output_text}}"}],
    "labels": ["good", "bad"],
    "passing_labels": ["good"],
    "sampling_params": {"temperature": 1.5, "seed": 3, "max_completions_tokens": 48},
}
MULTI: dict[str, Any] = {
    "type": "multi",
    "name": "both",
    "graders": {"score": SCORE, "label": LABEL},
    "calculate_output": "score / 10 + label",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    yield from keep_running(RunningService(tmp_path_factory.mktemp("gateway") / "data", serving_wait="PT300S"))


@pytest.fixture(scope="module")
def client_of_it(gateway: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that serves nothing, has no model of that name, and asks the other one."""
    folder = tmp_path_factory.mktemp("client")
    models_file, _ = catalogue_with_copied_model(folder, name="another-model")
    settings = {"serving": "off", "models_file": str(models_file), "grader_base_url": f"{gateway.url}/v1"}
    yield from keep_running(RunningService(folder / "data", grader_api_key="sk-secret-of-the-endpoint", **settings))


def run(service: RunningService, grader: Any) -> GraderRunResponse:
    raw = service.client.fine_tuning.alpha.graders.with_raw_response.run(
        grader=grader, model_sample="lamp", item={"label": "lamp"}
    )
    return GraderRunResponse.model_validate_json(raw.text, strict=True)


def run_until_answered(service: RunningService, grader: dict[str, Any]) -> GraderRunResponse:
    """With the first seed that has the little model come to an end."""
    for seed in (3, *range(4, 60)):
        result = run(service, grader | {"sampling_params": grader["sampling_params"] | {"seed": seed}})
        flags = {name for name, value in result.metadata.errors.model_dump(by_alias=True).items() if value is True}
        if not flags:
            return result
        assert flags == {"model_grader_parse_error"}, result
        assert "cut off" in result.metadata.errors.model_dump()["details"]
        assert result.reward == 0
    raise AssertionError("the model never gave an answer that can be read")


@pytest.mark.parametrize("asks", ["gateway", "client_of_it"])
def test_models_score_and_label(request: pytest.FixtureRequest, asks: str) -> None:
    service: RunningService = request.getfixturevalue(asks)
    scored, labelled = run_until_answered(service, SCORE), run_until_answered(service, LABEL)
    assert 0 <= scored.reward <= 10
    assert labelled.metadata.scores["label"] in LABEL["labels"]
    assert labelled.reward == (labelled.metadata.scores["label"] == "good")
    for result in (scored, labelled):
        assert result.metadata.sampled_model_name == "fettle-tiny"
        [(model, usage)] = result.api_model_grader_token_usage_per_model.items()
        assert isinstance(usage, dict)
        assert (model, usage["total_tokens"]) == ("fettle-tiny", result.metadata.token_usage)
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_the_tokens_of_all_parts_are_counted_together(gateway: RunningService) -> None:
    result = run(gateway, MULTI)
    assert set(result.sub_rewards) == {"score", "label"}
    parts = [run(gateway, SCORE), run(gateway, LABEL)]
    prompts = [part.api_model_grader_token_usage_per_model["fettle-tiny"] for part in parts]
    whole = result.api_model_grader_token_usage_per_model["fettle-tiny"]
    assert isinstance(whole, dict)
    assert whole["prompt_tokens"] == sum(prompt["prompt_tokens"] for prompt in prompts if isinstance(prompt, dict))


def test_a_judge_that_cannot_look_at_pictures_says_so_in_its_flag(gateway: RunningService) -> None:
    image = {"role": "user", "content": {"type": "input_image", "image_url": "https://host.invalid/a.png"}}
    errors = run(gateway, SCORE | {"input": [image]}).metadata.errors
    assert errors.api_model_grader_server_error
    assert "Only text can be sent" in str(errors.api_model_grader_server_error_details)


def test_a_model_of_neither_is_refused_or_told_by_the_endpoint(
    gateway: RunningService, client_of_it: RunningService
) -> None:
    grader = SCORE | {"model": "ft:fettle-tiny:fettle:other:12345678"}
    with pytest.raises(openai.BadRequestError) as refusal:
        run(gateway, grader)
    assert (refusal.value.code, refusal.value.param) == ("model_not_found", "grader.model")
    errors = run(client_of_it, grader).metadata.errors
    assert errors.api_model_grader_server_error
    assert "answered 404: The model 'ft:fettle-tiny:fettle:other:12345678' does not exist" in str(
        errors.api_model_grader_server_error_details
    )


def test_the_endpoints_key_is_in_no_log_and_no_answer(client_of_it: RunningService) -> None:
    answer = httpx.post(
        f"{client_of_it.url}/v1/fine_tuning/alpha/graders/run", json={"grader": SCORE, "model_sample": "lamp"}
    )
    assert answer.status_code == 200
    assert "sk-secret" not in answer.text
    assert "sk-secret" not in client_of_it.log


def test_an_endpoint_that_does_not_answer_is_a_flag(tmp_path: Path, start_service: Any) -> None:
    service = start_service(tmp_path / "data", serving="off", grader_base_url="http://127.0.0.1:9/v1")
    errors = run(service, SCORE | {"model": "gpt-4o"}).metadata.errors
    assert errors.api_model_grader_server_error
    assert "does not answer" in str(errors.api_model_grader_server_error_details)
