"""Grades by kind: rewards, flags and token counts, with models and code behind injected functions."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import TypeAdapter

from tests.unit.tuning.graders.test_grader_schemas import CHECK, LABEL, PYTHON, SCORE, SIMILARITY
from tuning.graders.failure import GradingFailed
from tuning.graders.grading import Grade, Tools, grade
from tuning.graders.model_call import ModelAnswer, TokenUsage
from tuning.graders.sample import Namespaces, Sample
from tuning.graders.schemas import Grader
from tuning.graders.similarity_metrics import measure_similarity

ADAPTER: TypeAdapter[Grader] = TypeAdapter(Grader)
ONE_MESSAGE = [{"role": "user", "content": "{{sample.output_text}}"}]


class Judge:
    """Answers every question with one text, and keeps what it was asked."""

    def __init__(self, text: str = "", refusal: str | None = None, is_cut_off: bool = False) -> None:
        self._answer = ModelAnswer("judge-1", text, refusal, is_cut_off, TokenUsage(10, 5, 15, 2))
        self.questions: list[Mapping[str, Any]] = []

    async def ask(self, body: Mapping[str, Any]) -> ModelAnswer:
        self.questions.append(body)
        return self._answer


async def measure(metric: str, text: str, reference: str) -> float:
    return measure_similarity(metric, text, reference)


async def never_run(source: str, namespaces: Namespaces) -> float:
    raise AssertionError("no code is to be run")


async def graded(grader: dict[str, Any], answer: str, judge: Judge | None = None, **item: Any) -> Grade:
    tools = Tools(ask_model=(judge or Judge()).ask, run_python=never_run, measure_similarity=measure)
    return await grade(ADAPTER.validate_python(grader), Sample(answer), item, tools)


def flags(result: Grade) -> list[str]:
    return [failure.flag for failure in result.failures]


@pytest.mark.parametrize(
    ("operation", "answer", "label", "reward"),
    [
        ("eq", "lamp", "lamp", 1),
        ("eq", "lamp", "Lamp", 0),
        ("ne", "lamp", "Lamp", 1),
        ("ne", "lamp", "lamp", 0),
        ("like", "the lamp", "lamp", 1),
        ("like", "the Lamp", "lamp", 0),
        ("like", "l%", "lamp", 0),
        ("ilike", "the LAMP", "lamp", 1),
        ("ilike", "STRASSE", "straße", 1),
        ("ilike", "lamp", "the lamp", 0),
        ("like", "lamp", "", 1),
    ],
)
async def test_string_check(operation: str, answer: str, label: str, reward: float) -> None:
    result = await graded(CHECK | {"operation": operation}, answer, label=label)
    assert (result.reward, result.failures) == (reward, [])


async def test_text_similarity_tells_whether_the_threshold_is_passed() -> None:
    result = await graded(SIMILARITY, '{"name": "John Doe"}', name="Jon Doe")
    assert 0.9 < result.reward < 1
    assert result.scores == {"passed": True}
    assert (await graded(SIMILARITY | {"pass_threshold": 0.99}, '{"name": "J"}', name="Jon")).scores == {
        "passed": False
    }


async def test_texts_that_are_too_long_are_not_compared() -> None:
    result = await graded(SIMILARITY | {"input": "{{sample.output_text}}"}, "x" * 100_001, name="x")
    assert (result.reward, flags(result)) == (0, ["other_error"])


async def test_score_model_asks_with_its_sampling_and_for_json() -> None:
    judge = Judge('{"steps": [], "result": 0.75}')
    result = await graded(SCORE, "an answer", judge, a="ä", url="https://host/image.png")
    assert result.reward == 0.75
    assert result.usage == {"judge-1": TokenUsage(10, 5, 15, 2)}
    [body] = judge.questions
    assert body["messages"] == [
        {"role": "system", "content": "You are an expert grader."},
        {"role": "user", "content": "Reference: ä. Answer: an answer"},
        {"role": "user", "content": [{"type": "text", "text": "ä"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "ä"},
                {"type": "image_url", "image_url": {"url": "https://host/image.png"}},
            ],
        },
    ]
    sampling = {name: body[name] for name in ("max_completion_tokens", "top_p", "reasoning_effort", "seed")}
    assert sampling == {"max_completion_tokens": 32768, "top_p": 1, "reasoning_effort": "medium", "seed": 42}
    assert set(body) == {"model", "messages", "response_format", *sampling}
    assert body["response_format"]["json_schema"]["schema"]["properties"]["result"] == {"type": "number"}


@pytest.mark.parametrize(("result", "reward"), [("5", 1), ("-3.5", 0), ("1e3", 1), ("0", 0), ("1" * 400, 1)])
async def test_a_score_outside_the_range_counts_as_the_nearest_bound(result: str, reward: float) -> None:
    grader = SCORE | {"input": ONE_MESSAGE}
    assert (await graded(grader, "x", Judge(f'{{"steps": [], "result": {result}}}'))).reward == reward


@pytest.mark.parametrize(
    ("judge", "flag", "mentions"),
    [
        (Judge(""), "model_grader_parse_error", "not the JSON"),
        (Judge("0.5"), "model_grader_parse_error", "no 'result'"),
        (Judge('{"steps": ['), "model_grader_parse_error", "not the JSON"),
        (Judge('{"steps": [', is_cut_off=True), "model_grader_parse_error", "max_completions_tokens"),
        (Judge('{"result": "0.5"}'), "model_grader_parse_error", "no number"),
        (Judge('{"result": true}'), "model_grader_parse_error", "no number"),
        (Judge('{"result": null}'), "model_grader_parse_error", "no number"),
        (Judge('{"result": 1e999}'), "model_grader_parse_error", "not the JSON"),
        (Judge("[" * 100_000), "model_grader_parse_error", "not the JSON"),
        (Judge(refusal="I cannot"), "model_grader_refusal_error", "I cannot"),
    ],
)
async def test_an_answer_that_is_no_score_is_told_and_its_tokens_are_counted(
    judge: Judge, flag: str, mentions: str
) -> None:
    result = await graded(SCORE | {"input": ONE_MESSAGE}, "x", judge)
    assert (result.reward, flags(result)) == (0, [flag])
    assert mentions in result.failures[0].detail
    assert result.usage["judge-1"].total_tokens == 15


@pytest.mark.parametrize(("label", "reward"), [("positive", 1), ("negative", 0)])
async def test_label_model_passes_with_a_passing_label(label: str, reward: float) -> None:
    judge = Judge(json.dumps({"steps": [], "result": label}))
    result = await graded(LABEL, "x", judge)
    assert (result.reward, result.scores, result.failures) == (reward, {"label": label}, [])
    schema = judge.questions[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["result"] == {"type": "string", "enum": LABEL["labels"]}


@pytest.mark.parametrize("result", ['"Positive"', "1", "null", '["positive"]', '{"a": 1}'])
async def test_a_label_that_is_none_of_them_is_an_error(result: str) -> None:
    grade = await graded(LABEL, "x", Judge(f'{{"steps": [], "result": {result}}}'))
    assert (grade.reward, flags(grade)) == (0, ["model_grader_parse_error"])


async def test_a_multi_grader_computes_with_its_parts() -> None:
    grader = {
        "type": "multi",
        "graders": {"right": CHECK, "close": SIMILARITY | {"input": "{{sample.output_text}}"}, "judged": SCORE},
        "calculate_output": "0.5 * right + 0.25 * close + judged / 4",
    }
    judge = Judge('{"steps": [], "result": 0.5}')
    item = {"label": "lamp", "name": "lamp", "a": "", "url": "https://host/image.png"}
    result = await graded(grader, "lamp", judge, **item)
    assert result.sub_rewards == {"right": 1, "close": 1, "judged": 0.5}
    assert result.reward == pytest.approx(0.875)
    assert result.scores == {"close": {"passed": True}, "judged": {"passed": True}}
    assert result.usage == {"judge-1": TokenUsage(10, 5, 15, 2)}


async def test_a_part_that_fails_makes_the_whole_worth_nothing() -> None:
    grader = {"type": "multi", "graders": {"right": CHECK}, "calculate_output": "1 - right"}
    result = await graded(grader, "lamp")
    assert (result.reward, flags(result)) == (0, ["invalid_variable_error"])
    assert result.failures[0].detail.startswith("right: 'item.label'")


async def test_a_formula_without_a_finite_result_is_flagged() -> None:
    grader = {"type": "multi", "graders": {"right": CHECK}, "calculate_output": "1 / (right - 1)"}
    result = await graded(grader, "lamp", label="lamp")
    assert (result.reward, flags(result), result.sub_rewards) == (0, ["formula_parse_error"], {"right": 1})


async def test_python_code_is_given_the_sample_and_the_item() -> None:
    seen: list[Namespaces] = []

    async def run(source: str, namespaces: Namespaces) -> float:
        seen.append(namespaces)
        if source != PYTHON["source"]:
            raise GradingFailed("python_grader_runtime_error", "other code")
        return 0.5

    tools = Tools(ask_model=Judge().ask, run_python=run, measure_similarity=measure)
    result = await grade(ADAPTER.validate_python(PYTHON), Sample('{"a": 1}'), {"label": "x"}, tools)
    assert result.reward == 0.5
    assert seen[0]["item"] == {"label": "x"}
    assert seen[0]["sample"]["output_json"] == {"a": 1}
