"""The graders API through the stock client: rewards, flags, refusals, and the sandbox of a real service."""

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.fine_tuning.alpha import GraderRunResponse, GraderValidateResponse

from tests.fixtures.service import RunningService, StartService, wait_until

CHECK: dict[str, Any] = {
    "type": "string_check",
    "name": "right label",
    "input": "{{sample.output_text}}",
    "reference": "{{item.label}}",
    "operation": "eq",
}
SIMILARITY: dict[str, Any] = {
    "type": "text_similarity",
    "name": "close",
    "input": "{{sample.output_text}}",
    "reference": "{{item.label}}",
    "evaluation_metric": "fuzzy_match",
}
PYTHON: dict[str, Any] = {
    "type": "python",
    "name": "mine",
    "source": "def grade(sample, item):\n    return float(sample['output_text'] == item['label'])",
}
SCORE: dict[str, Any] = {
    "type": "score_model",
    "name": "judged",
    "model": "gpt-4o",
    "input": [{"role": "user", "content": "{{item.label}}"}],
}
FLAGS = (
    *("formula_parse_error", "sample_parse_error", "truncated_observation_error", "unresponsive_reward_error"),
    *("invalid_variable_error", "other_error", "python_grader_server_error", "python_grader_runtime_error"),
    *("model_grader_server_error", "model_grader_refusal_error", "model_grader_parse_error"),
)


def run(service: RunningService, grader: Any, answer: str, **item: Any) -> GraderRunResponse:
    """The answer as OpenAI's types have it, strictly: the client itself would take anything."""
    raw = service.client.fine_tuning.alpha.graders.with_raw_response.run(grader=grader, model_sample=answer, item=item)
    return GraderRunResponse.model_validate_json(raw.text, strict=True)


def raised(result: GraderRunResponse) -> list[str]:
    errors = result.metadata.errors.model_dump(by_alias=True)
    assert set(FLAGS) <= set(errors)
    return [flag for flag in FLAGS if errors[flag]]


def test_a_run_answers_as_openais_types_say(service: RunningService) -> None:
    result = run(service, CHECK, "lamp", label="lamp")
    assert (result.reward, result.metadata.name, result.metadata.type) == (1.0, "right label", "string_check")
    assert (result.metadata.scores, result.sub_rewards, result.api_model_grader_token_usage_per_model) == ({}, {}, {})
    assert (result.metadata.token_usage, result.metadata.sampled_model_name) == (None, None)
    assert 0 <= result.metadata.execution_time < 60
    assert raised(result) == []
    assert run(service, CHECK, "fan", label="lamp").reward == 0


@pytest.mark.parametrize("metric", ["fuzzy_match", "bleu", "gleu", "meteor", "rouge_1", "rouge_5", "rouge_l"])
def test_texts_are_compared_by_every_metric(service: RunningService, metric: str) -> None:
    grader = SIMILARITY | {"evaluation_metric": metric}
    text = "The lamp in the kitchen is on, and so is the heating."
    assert run(service, grader, text, label=text).reward == pytest.approx(1, abs=1e-3)


def test_a_multi_grader_shows_its_parts(service: RunningService) -> None:
    grader = {
        "type": "multi",
        "name": "both",
        "graders": {"right": CHECK, "close": SIMILARITY},
        "calculate_output": "0.5 * right + 0.5 * close ^ 2",
    }
    result = run(service, grader, "lamps", label="lamp")
    close = result.sub_rewards["close"]
    assert isinstance(close, float)
    assert 0.8 < close < 1
    assert result.sub_rewards["right"] == 0
    assert result.reward == pytest.approx(0.5 * close**2)


def test_what_the_item_or_the_answer_lacks_is_a_flag_and_no_failure(service: RunningService) -> None:
    missing = run(service, CHECK, "lamp")
    assert (missing.reward, raised(missing)) == (0, ["invalid_variable_error"])
    assert "item.label" in missing.metadata.errors.model_dump()["details"]
    no_json = run(service, CHECK | {"input": "{{sample.output_json.a}}"}, "lamp", label="lamp")
    assert raised(no_json) == ["sample_parse_error"]
    formula = {"type": "multi", "name": "m", "graders": {"right": CHECK}, "calculate_output": "1 / (right - 1)"}
    assert raised(run(service, formula, "lamp", label="lamp")) == ["formula_parse_error"]


def test_an_item_may_be_left_out(service: RunningService) -> None:
    grader = CHECK | {"reference": "lamp"}
    assert service.client.fine_tuning.alpha.graders.run(grader=grader, model_sample="lamp").reward == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("grader", [CHECK, SIMILARITY, PYTHON | {"image_tag": "2025-05-08"}])
def test_validate_answers_with_the_grader_as_it_was_sent(service: RunningService, grader: Any) -> None:
    raw = service.client.fine_tuning.alpha.graders.with_raw_response.validate(grader=grader)
    assert raw.http_response.json() == {"grader": grader}
    assert GraderValidateResponse.model_validate_json(raw.text).grader is not None


def test_a_grader_without_a_name_is_called_by_its_type(service: RunningService) -> None:
    grader = {name: value for name, value in CHECK.items() if name != "name"}
    validated = service.client.fine_tuning.alpha.graders.validate(grader=grader).grader  # type: ignore[arg-type]
    assert validated is not None
    assert validated.name == "string_check"


@pytest.mark.parametrize(
    ("grader", "param", "mentions"),
    [
        (CHECK | {"operation": "equals"}, "grader.operation", "'equals' is not one of"),
        (CHECK | {"inputs": "x"}, "grader.inputs", "Unknown parameter"),
        (CHECK | {"input": "{{item}}"}, "grader.input", "names no value"),
        (CHECK | {"input": 1}, "grader.input", "string"),
        (CHECK | {"type": "regex"}, "grader", "regex"),
        ({"input": "x"}, "grader", "type"),
        ("string_check", "grader", "object"),
        (SIMILARITY | {"evaluation_metric": "cosine"}, "grader.evaluation_metric", "no embedding model"),
        (SCORE | {"range": [1, 0]}, "grader.range", "smaller"),
        (SCORE | {"input": [{"role": "user", "content": [{"type": "x"}]}]}, "grader.input.0.content.0", "input_text"),
        (SCORE, "grader.model", "FETTLE_GRADER_BASE_URL"),
        (SCORE | {"model": "fettle-tiny"}, "grader.model", "FETTLE_SERVING=off"),
        (
            {"type": "multi", "graders": {"a": CHECK, "b": SCORE}, "calculate_output": "a + b"},
            "grader.graders.b.model",
            "does not exist",
        ),
        (
            {"type": "multi", "graders": {"a": CHECK | {"operation": "x"}}, "calculate_output": "a"},
            "grader.graders.a.operation",
            "'eq'",
        ),
        ({"type": "multi", "graders": {"a": CHECK}, "calculate_output": "a +"}, "grader.calculate_output", "expected"),
        (PYTHON | {"image_tag": "latest"}, "grader.image_tag", "2025-05-08"),
    ],
)
def test_a_grader_that_can_grade_nothing_is_refused_with_the_fields_name(
    service: RunningService, grader: Any, param: str, mentions: str
) -> None:
    graders = service.client.fine_tuning.alpha.graders
    for call in (
        lambda: graders.validate(grader=grader),
        lambda: graders.run(grader=grader, model_sample="x", item={}),
    ):
        with pytest.raises(openai.BadRequestError) as refusal:
            call()
        assert refusal.value.param == param
        assert mentions in refusal.value.message


@pytest.mark.parametrize(
    ("source", "mentions"),
    [
        ("def grade(sample, item)", "SyntaxError"),
        ("x = 1", "no function 'grade'"),
        ("import pandas\ndef grade(sample, item): return 1.0", "rapidfuzz"),
        ("raise ValueError('at once')", "at once"),
    ],
)
def test_code_that_does_not_load_is_refused_when_it_is_validated(
    service: RunningService, source: str, mentions: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        service.client.fine_tuning.alpha.graders.validate(grader={"type": "python", "name": "mine", "source": source})
    assert refusal.value.param == "grader.source"
    assert mentions in refusal.value.message


def test_code_runs_in_the_sandbox_and_its_errors_are_told(service: RunningService) -> None:
    assert run(service, PYTHON, "lamp", label="lamp").reward == 1
    failed = run(service, PYTHON, "lamp")
    assert (failed.reward, raised(failed)) == (0, ["python_grader_runtime_error"])
    assert failed.metadata.errors.python_grader_runtime_error_details == "KeyError: 'label' (line 2)"


def test_code_reads_nothing_of_the_service(service: RunningService) -> None:
    source = (
        "import os\n"
        "def grade(sample, item):\n"
        "    seen = [path for path in item['paths'] if os.path.lexists(path)]\n"
        "    return float(not seen and not [name for name in os.environ if 'FETTLE' in name])"
    )
    paths = [str(service.data_dir), str(service.data_dir / "service.log"), f"/proc/{service.pid}", "/etc/passwd"]
    assert run(service, PYTHON | {"source": source}, "", paths=paths).reward == 1


def test_where_no_sandbox_can_be_made_code_is_refused_and_the_rest_works(
    start_service: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without bwrap
    service = start_service(tmp_path / "data", serving="off")
    graders = service.client.fine_tuning.alpha.graders
    for call in (lambda: graders.validate(grader=PYTHON), lambda: run(service, PYTHON, "lamp", label="lamp")):  # type: ignore[arg-type]
        with pytest.raises(openai.BadRequestError) as refusal:
            call()
        assert (refusal.value.code, refusal.value.param) == ("python_grader_unavailable", "grader.type")
        assert "bubblewrap is not installed" in refusal.value.message
    assert run(service, CHECK, "lamp", label="lamp").reward == 1


def test_limits_are_the_settings_and_a_killed_service_leaves_no_code_running(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service(tmp_path / "data", serving="off", grader_timeout="PT2S", grader_memory_mib="256")
    endless = PYTHON | {"source": "def grade(sample, item):\n    while True: pass"}
    took_long = run(service, endless, "")
    assert took_long.metadata.errors.python_grader_runtime_error_details == "it took longer than 2 s"
    greedy = PYTHON | {"source": "def grade(sample, item):\n    return float(len(bytearray(300 * 1024 ** 2)))"}
    assert "MemoryError" in str(run(service, greedy, "").metadata.errors.python_grader_runtime_error_details)

    def run_until_the_service_dies() -> None:
        with suppress(openai.APIConnectionError):
            run(service, endless, "")

    running = threading.Thread(target=run_until_the_service_dies)
    running.start()
    wait_until(lambda: bool(sandboxes_of(service.pid)), 20, "the sandbox did not start")
    sandboxes = sandboxes_of(service.pid)
    service.kill()
    wait_until(lambda: not any(is_alive(pid) for pid in sandboxes), 10, "code outlived its service")
    running.join()


def sandboxes_of(pid: int) -> list[int]:
    """Children of the service that are bubblewrap, and theirs."""
    found = []
    for child in children_of(pid):
        if "bwrap" in Path(f"/proc/{child}/comm").read_text():
            found += [child, *children_of(child)]
    return found


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for thread in threads for child in thread.read_text().split()]


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_long_comparisons_do_not_hold_up_other_requests(service: RunningService) -> None:
    """fuzzy_match of long texts of different length works in C for seconds, and would hold the whole process."""
    words = " ".join(str(number) for number in range(20_000))
    slow = threading.Thread(target=lambda: run(service, SIMILARITY, words[:4_000], label=words[20_000:27_000]))
    slow.start()
    waits = []
    while slow.is_alive():
        started = time.monotonic()
        assert httpx.get(f"{service.url}/health").status_code == 200
        waits.append(time.monotonic() - started)
        time.sleep(0.01)
    assert len(waits) > 20
    assert sorted(waits)[len(waits) * 9 // 10] < 0.5


def test_a_body_that_is_no_request_is_refused(service: RunningService) -> None:
    url = f"{service.url}/v1/fine_tuning/alpha/graders/run"
    for body, param in [
        ({"grader": CHECK, "model_sample": 1}, "model_sample"),
        ({"grader": CHECK}, "model_sample"),
        ({"grader": CHECK, "model_sample": "", "item": []}, "item"),
        ({"grader": CHECK, "model_sample": "", "more": 1}, "more"),
        ({"grader": None, "model_sample": ""}, "grader"),
        ({"model_sample": ""}, "grader"),
    ]:
        answer = httpx.post(url, json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), body
    too_large = httpx.post(url, json={"grader": CHECK, "model_sample": "x" * 2_000_000})
    assert too_large.status_code == 413


def test_too_many_runs_at_once_are_asked_to_come_again(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(tmp_path / "data", serving="off", grader_timeout="PT60S")
    waiting = PYTHON | {"source": "import time\ndef grade(sample, item):\n    time.sleep(60)"}
    body = {"grader": waiting, "model_sample": ""}
    url = f"{service.url}/v1/fine_tuning/alpha/graders/run"

    def post() -> None:
        with suppress(httpx.TransportError):
            httpx.post(url, json=body, timeout=60)

    threads = [threading.Thread(target=post) for _ in range(64)]
    for thread in threads:
        thread.start()
    answers: list[httpx.Response] = []

    def is_full() -> bool:
        answers[:] = [httpx.post(url, json={"grader": CHECK, "model_sample": "x", "item": {"label": "x"}})]
        return answers[0].status_code == 503

    wait_until(is_full, 30, "it takes any number of runs")
    assert answers[0].headers["retry-after"] == "5"
    assert answers[0].json()["error"]["code"] == "too_many_graders"
    service.kill()
    for thread in threads:
        thread.join()
