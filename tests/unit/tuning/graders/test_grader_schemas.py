"""Grader configurations: the examples of OpenAI's guide are taken, and what is wrong is told by its field."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from tuning.graders.schemas import Grader, MultiGrader

ADAPTER: TypeAdapter[Grader] = TypeAdapter(Grader)

CHECK: dict[str, Any] = {
    "type": "string_check",
    "name": "check",
    "input": "{{sample.output_text}}",
    "reference": "{{item.label}}",
    "operation": "eq",
}
SIMILARITY: dict[str, Any] = {
    "type": "text_similarity",
    "name": "alike",
    "input": "{{sample.output_json.name}}",
    "reference": "{{item.name}}",
    "evaluation_metric": "fuzzy_match",
    "pass_threshold": 0.9,
}
SCORE: dict[str, Any] = {
    "type": "score_model",
    "name": "score",
    "input": [
        {"role": "system", "content": "You are an expert grader."},
        {"role": "user", "content": "Reference: {{ item.a }}. Answer: {{ sample.output_text }}", "type": "message"},
        {"role": "user", "content": {"type": "input_text", "text": "{{item.a}}"}},
        {"role": "user", "content": ["{{item.a}}", {"type": "input_image", "image_url": "{{item.url}}"}]},
    ],
    "model": "o4-mini-2025-04-16",
    "range": [0, 1],
    "pass_threshold": 0.5,
    "sampling_params": {"max_completions_tokens": 32768, "top_p": 1, "reasoning_effort": "medium", "seed": 42},
}
LABEL: dict[str, Any] = {
    "type": "label_model",
    "name": "label",
    "model": "gpt-4o-2024-08-06",
    "input": [{"type": "message", "role": "system", "content": {"type": "input_text", "text": "Classify"}}],
    "labels": ["positive", "neutral", "negative"],
    "passing_labels": ["positive"],
}
PYTHON: dict[str, Any] = {
    "type": "python",
    "source": "def grade(sample, item):\n    return 1.0",
    "image_tag": "2025-05-08",
}
MULTI: dict[str, Any] = {
    "type": "multi",
    "graders": {"name": SIMILARITY, "email": CHECK},
    "calculate_output": "(name + email) / 2",
}


@pytest.mark.parametrize("grader", [CHECK, SIMILARITY, SCORE, LABEL, PYTHON, MULTI])
def test_the_examples_of_openais_guide_are_taken_as_they_are(grader: dict[str, Any]) -> None:
    taken = ADAPTER.validate_python(grader).model_dump(exclude_unset=True)
    assert taken == {"name": grader["type"], **grader}


def test_one_grader_where_openais_types_have_one_stands_in_the_formula_by_its_name() -> None:
    grader = ADAPTER.validate_python({"type": "multi", "graders": CHECK, "calculate_output": "1 - check"})
    assert isinstance(grader, MultiGrader)
    assert list(grader.graders) == ["check"]


def without(grader: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in grader.items() if name not in names}


@pytest.mark.parametrize(
    ("grader", "field", "mentions"),
    [
        (without(CHECK, "type"), (), "discriminator"),
        (CHECK | {"type": "regex"}, (), "regex"),
        (CHECK | {"operation": "neq"}, ("operation",), "'eq', 'ne', 'like' or 'ilike'"),
        (CHECK | {"extra": 1}, ("extra",), "not permitted"),
        (CHECK | {"input": "{{7*7}}"}, ("input",), "names no value"),
        (CHECK | {"reference": "x" * 100_001}, ("reference",), "100000"),
        (without(CHECK, "reference"), ("reference",), "required"),
        (CHECK | {"name": ""}, ("name",), "at least 1"),
        (SIMILARITY | {"evaluation_metric": "cosine"}, ("evaluation_metric",), "embedding"),
        (SIMILARITY | {"evaluation_metric": "rouge_6"}, ("evaluation_metric",), "rouge_5"),
        (SCORE | {"range": [1, 0]}, ("range",), "smaller"),
        (SCORE | {"range": [0, 0]}, ("range",), "smaller"),
        (SCORE | {"range": [0]}, ("range",), "at least 2"),
        (SCORE | {"range": [0, float("inf")]}, ("range", 1), "finite"),
        (SCORE | {"range": [-1.7e308, 1.7e308]}, ("range",), "smaller"),
        (SCORE | {"input": []}, ("input",), "at least 1"),
        (SCORE | {"input": [{"role": "tool", "content": "x"}]}, ("input", 0, "role"), "'user'"),
        (
            SCORE | {"input": [{"role": "user", "content": ["{{x}}"]}]},
            ("input", 0, "content", "parts", 0, "text"),
            "names",
        ),
        (SCORE | {"sampling_params": {"max_tokens": 5}}, ("sampling_params", "max_tokens"), "not permitted"),
        (SCORE | {"sampling_params": {"temperature": 3}}, ("sampling_params", "temperature"), "less than"),
        (LABEL | {"passing_labels": ["good"]}, ("passing_labels",), "'good' is not one of 'labels'"),
        (LABEL | {"labels": ["a", "a"], "passing_labels": []}, ("labels",), "twice"),
        (LABEL | {"labels": []}, ("labels",), "at least 1"),
        (PYTHON | {"image_tag": "2024-01-01"}, ("image_tag",), "2025-05-08"),
        (PYTHON | {"source": "#" * 256_001}, ("source",), "256000"),
        (MULTI | {"calculate_output": "name + nobody"}, ("calculate_output",), "'nobody' is none of the graders"),
        (MULTI | {"calculate_output": "1+" * 3000}, ("calculate_output",), "4000"),
        (MULTI | {"graders": {}}, ("graders",), "at least 1"),
        (MULTI | {"graders": {f"g{i}": CHECK for i in range(21)}}, ("graders",), "20"),
        (MULTI | {"graders": {"min": CHECK}, "calculate_output": "1"}, ("calculate_output",), "cannot stand"),
        (MULTI | {"graders": {"inner": MULTI}}, ("graders", "inner"), "multi"),
        (MULTI | {"graders": [CHECK]}, ("graders",), "dictionary"),
    ],
)
def test_what_is_wrong_is_refused_with_the_fields_name(
    grader: dict[str, Any], field: tuple[str | int, ...], mentions: str
) -> None:
    with pytest.raises(ValidationError) as refusal:
        ADAPTER.validate_python(grader)
    error = refusal.value.errors()[0]
    assert error["loc"][1:] == field
    assert mentions in error["msg"]
