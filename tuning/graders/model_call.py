"""How model graders ask: the question with its templates filled in, the answer's shape given by a JSON schema."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from tuning.graders.failure import GradingFailed
from tuning.graders.sample import Namespaces
from tuning.graders.schemas import (
    InputAudio,
    InputImage,
    InputMessage,
    InputPart,
    LabelModelGrader,
    SamplingParams,
    ScoreModelGrader,
)
from tuning.graders.templates import MAX_RENDERED_CHARACTERS, render


@dataclass(frozen=True)
class TokenUsage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0

    def plus(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True)
class ModelAnswer:
    model: str
    """Which one answered, in its own words."""
    text: str
    refusal: str | None
    is_cut_off: bool
    """It reached the most tokens that it may have."""
    usage: TokenUsage


AskModel = Callable[[Mapping[str, Any]], Awaitable[ModelAnswer]]
"""The body of a chat completion → its answer. Raises GradingFailed with `model_grader_server_error`."""


async def ask_for_result(
    grader: ScoreModelGrader | LabelModelGrader, result: Mapping[str, Any], namespaces: Namespaces, ask: AskModel
) -> Any:
    """`result`: the JSON schema of what is wanted. Raises GradingFailed when the model gives none."""
    body = {
        "model": grader.model,
        "messages": _render_messages(grader.input, namespaces),
        "response_format": {"type": "json_schema", "json_schema": _answer_schema(result)},
        **_sampling(grader.sampling_params),
    }
    answer = await ask(body)
    if answer.refusal is not None:
        raise GradingFailed("model_grader_refusal_error", f"The model refused to grade: {answer.refusal}")
    try:
        decoded = msgspec.json.decode(answer.text.encode(errors="replace"))
    except (msgspec.DecodeError, RecursionError) as error:
        cut_off = " It was cut off: allow more tokens in 'max_completions_tokens'." if answer.is_cut_off else ""
        reason = f"The model's answer is not the JSON that was asked for: {answer.text[:200]!r}.{cut_off}"
        raise GradingFailed("model_grader_parse_error", reason) from error
    if not isinstance(decoded, dict) or "result" not in decoded:
        raise GradingFailed("model_grader_parse_error", f"The model's answer has no 'result': {answer.text[:200]!r}.")
    return decoded["result"]


def _answer_schema(result: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's `{"steps": [{"description", "conclusion"}], "result"}`, steps first: the model thinks before it says."""
    text = {"type": "string"}
    step = {
        "type": "object",
        "properties": {"description": text, "conclusion": text},
        "required": ["description", "conclusion"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {"steps": {"type": "array", "items": step}, "result": result},
        "required": ["steps", "result"],
        "additionalProperties": False,
    }
    return {"name": "grade", "strict": True, "schema": schema}


def _sampling(params: SamplingParams | None) -> dict[str, Any]:
    given = {} if params is None else params.model_dump(exclude_none=True)
    if "max_completions_tokens" in given:  # graders' spelling, and theirs alone
        given["max_completion_tokens"] = given.pop("max_completions_tokens")
    return given


def _render_messages(messages: Sequence[InputMessage], namespaces: Namespaces) -> list[dict[str, Any]]:
    rendered = [{"role": message.role, "content": _render_content(message, namespaces)} for message in messages]
    if sum(len(str(message["content"])) for message in rendered) > MAX_RENDERED_CHARACTERS:
        reason = f"The messages are longer than {MAX_RENDERED_CHARACTERS} characters once their values are filled in."
        raise GradingFailed("other_error", reason)
    return rendered


def _render_content(message: InputMessage, namespaces: Namespaces) -> str | list[dict[str, Any]]:
    parts = message.content if isinstance(message.content, list) else [message.content]
    if len(parts) == 1 and isinstance(parts[0], str):
        return render(parts[0], namespaces)
    return [_render_part(part, namespaces) for part in parts]


def _render_part(part: str | InputPart, namespaces: Namespaces) -> dict[str, Any]:
    """In the words of chat completions."""
    if isinstance(part, str):
        return {"type": "text", "text": render(part, namespaces)}
    if isinstance(part, InputImage):
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": render(part.image_url, namespaces), **detail}}
    if isinstance(part, InputAudio):
        return {"type": "input_audio", "input_audio": part.input_audio.model_dump()}
    return {"type": "text", "text": render(part.text, namespaces)}
