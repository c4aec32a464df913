"""Templates: what they put in, what they refuse, and that hostile ones cost no more than their length."""

import time
from contextlib import suppress
from typing import Any

import pytest

from tuning.graders.failure import GradingFailed
from tuning.graders.sample import Sample, namespaces_of
from tuning.graders.templates import MAX_RENDERED_CHARACTERS, TemplateError, check_template, render

CALL = {"id": "call_1", "type": "function", "function": {"name": "dim", "arguments": '{"to": 3}'}}


def rendered(template: str, answer: str = "", **item: Any) -> str:
    return render(template, namespaces_of(Sample(answer, output_tools=[CALL]), item))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("no value", "no value"),
        ("", ""),
        ("{{item.label}}", "lamp"),
        ("a {{ item.label }}{{item.label}} b", "a lamplamp b"),
        ("{{item.deep.list[1].name}}", "second"),
        ("{{item.deep.list[-1].name}}", "second"),
        ('{{item["a key"]}}', "spaced"),
        ("{{item.größe}}", "groß"),
        ("{{item.number}} {{item.yes}} {{item.nothing}}", "1.5 true null"),
        ("{{item.deep.list}}", '[{"name": "first"}, {"name": "second"}]'),
        ("{{sample.output_text}}", '{"size": {"w": 3}}'),
        ("{{sample.output_json.size.w}}", "3"),
        ("{{sample.output_tools[0].function.name}}", "dim"),
        ("{{sample.choices[0].message.content}}", '{"size": {"w": 3}}'),
        ('{"smiles": "{{item.label}}"}', '{"smiles": "lamp"}'),
        ("{{ not closed", "{{ not closed"),
        ("}} closed {{item.label}}", "}} closed lamp"),
    ],
)
def test_values_are_put_in_and_nothing_else_changes(template: str, expected: str) -> None:
    item = {
        "label": "lamp",
        "deep": {"list": [{"name": "first"}, {"name": "second"}]},
        "a key": "spaced",
        "größe": "groß",
        "number": 1.5,
        "yes": True,
        "nothing": None,
    }
    assert rendered(check_template(template), '{"size": {"w": 3}}', **item) == expected


def test_a_value_with_braces_is_not_read_again() -> None:
    assert rendered("{{item.a}}", a="{{item.b}}", b="secret") == "{{item.b}}"


@pytest.mark.parametrize(
    "template",
    [
        "{{7*7}}",
        "{{item}}",
        "{{item.}}",
        "{{item.a b}}",
        "{{item.a()}}",
        "{{item.a|upper}}",
        "{{config.items()}}",
        "{{self.__init__.__globals__}}",
        "{{items.a}}",
        "{{sample.text}}",
        "{{sample.__class__}}",
        "{{item[x]}}",
        "{{}}",
        "{{{{item.a}}}}",
        "{{item." + "a" * 1000 + "}}",
    ],
)
def test_what_names_no_value_is_refused_before_it_is_used(template: str) -> None:
    with pytest.raises(TemplateError):
        check_template(template)


@pytest.mark.parametrize(
    ("template", "answer", "flag", "mentions"),
    [
        ("{{item.missing}}", "", "invalid_variable_error", "item.missing"),
        ("{{item.label.x}}", "", "invalid_variable_error", "'x'"),
        ("{{item.list[3]}}", "", "invalid_variable_error", "3"),
        ("{{item.__class__}}", "", "invalid_variable_error", "__class__"),
        ("{{sample.output_audio}}", "", "invalid_variable_error", "output_audio"),
        ("{{sample.output_json.a}}", "no json", "sample_parse_error", "not JSON"),
        ("{{sample.output_json.a}}", "NaN", "sample_parse_error", "not JSON"),
        ("{{sample.output_json.a}}", "[" * 100_000, "sample_parse_error", "not JSON"),
        ("{{sample.output_json.a}}", "{}", "invalid_variable_error", "'a'"),
    ],
)
def test_a_missing_value_is_told_by_its_flag(template: str, answer: str, flag: str, mentions: str) -> None:
    with pytest.raises(GradingFailed) as failure:
        rendered(template, answer, label="lamp", list=[1])
    assert failure.value.flag == flag
    assert mentions in failure.value.detail


def test_a_short_template_cannot_make_a_text_without_end() -> None:
    with pytest.raises(GradingFailed, match=str(MAX_RENDERED_CHARACTERS)):
        rendered("{{item.long}}" * 5000, long="x" * 100_000)


@pytest.mark.parametrize("template", ["{{" * 50_000, "{{item.a" * 12_000, "{" * 100_000, "{{item.a}}" * 10_000])
def test_hostile_templates_take_no_longer_than_they_are_long(template: str) -> None:
    started = time.process_time()
    with suppress(TemplateError):
        rendered(template, a="")
    assert time.process_time() - started < 1


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert rendered("{{item.a}} {{item.b}}", a="\ud800", b={"c": "\udfff"}).encode() == b'? {"c": "?"}'
