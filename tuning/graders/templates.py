"""`{{ item.answer }}` and `{{ sample.output_text }}`: values put into a grader's texts, nothing evaluated.

A reference is a namespace and a path of `.name`, `[0]` or `["any key"]`. Both halves of the work, splitting a template
and putting values in, take time linear in what they read and write, whatever a client sends.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tuning.graders.failure import GradingFailed
from tuning.graders.sample import Namespaces

MAX_RENDERED_CHARACTERS = 1_000_000
"""A short template can name a long value a thousand times over."""
_MAX_REFERENCE_CHARACTERS = 500

_NAMESPACES = ("item", "sample")
_SAMPLE_VARIABLES = ("output_text", "output_json", "output_tools", "output_audio", "choices")
_STEP = re.compile(r"\.(?P<name>[\w-]+)|\[(?P<index>-?\d{1,9})\]|\[(?P<quote>[\"'])(?P<key>[^\"']*)(?P=quote)\]")


class TemplateError(Exception):
    """A template that can never be filled in."""


@dataclass(frozen=True)
class Reference:
    text: str
    """As it was written, without the braces."""
    path: tuple[str | int, ...]
    """The namespace first."""


def check_template(template: str) -> str:
    """Raises TemplateError; returns the template."""
    parse_template(template)
    return template


def render(template: str, namespaces: Namespaces) -> str:
    """Raises GradingFailed when a value is missing. What is no text goes in as JSON."""
    pieces: list[str] = []
    length = 0
    for part in parse_template(template):
        piece = part if isinstance(part, str) else _as_text(_resolve(part, namespaces))
        length += len(piece)
        if length > MAX_RENDERED_CHARACTERS:
            reason = f"A template is longer than {MAX_RENDERED_CHARACTERS} characters once its values are filled in."
            raise GradingFailed("other_error", reason)
        pieces.append(piece)
    return "".join(pieces).encode(errors="replace").decode()  # half a surrogate pair cannot be sent to a model


@lru_cache(maxsize=64)
def parse_template(template: str) -> tuple[str | Reference, ...]:
    """Texts and references in turn. Raises TemplateError."""
    parts: list[str | Reference] = []
    position = 0
    while (start := template.find("{{", position)) != -1 and (end := template.find("}}", start + 2)) != -1:
        parts.append(template[position:start])
        parts.append(_parse_reference(template[start + 2 : end].strip()))
        position = end + 2
    parts.append(template[position:])
    return tuple(part for part in parts if part)


def _parse_reference(text: str) -> Reference:
    shown = text[:100]
    if len(text) > _MAX_REFERENCE_CHARACTERS:
        raise TemplateError(f"'{shown}…' in double braces is longer than {_MAX_REFERENCE_CHARACTERS} characters")
    namespace = re.match(r"\w*", text)
    assert namespace is not None
    path: list[str | int] = [namespace[0]]
    position = namespace.end()
    while step := _STEP.match(text, position):
        name, index, key = step["name"], step["index"], step["key"]
        path.append(name if name is not None else key if index is None else int(index))
        position = step.end()
    if position != len(text) or path[0] not in _NAMESPACES or len(path) < 2:
        raise TemplateError(f"'{{{{{shown}}}}}' names no value: write {{{{item.name}}}} or {{{{sample.output_text}}}}")
    if path[0] == "sample" and path[1] not in _SAMPLE_VARIABLES:
        raise TemplateError(f"'{{{{{shown}}}}}': 'sample' has {', '.join(_SAMPLE_VARIABLES)} and nothing else")
    return Reference(text, tuple(path))


def _resolve(reference: Reference, namespaces: Namespaces) -> Any:
    value: Any = namespaces
    for step in reference.path:
        if isinstance(value, Mapping) and str(step) in value:
            value = value[str(step)]
        elif isinstance(value, list) and isinstance(step, int) and -len(value) <= step < len(value):
            value = value[step]
        elif reference.path[:2] == ("sample", "output_json") and "output_json" not in namespaces["sample"]:
            raise GradingFailed("sample_parse_error", f"'{reference.text}': the model's answer is not JSON.")
        else:
            raise GradingFailed("invalid_variable_error", f"'{reference.text}' is not there: no {step!r}.")
    return value


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError as error:
        raise GradingFailed("other_error", "A value of a template is nested too deeply.") from error
