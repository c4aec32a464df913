"""What one model says to one question, and what it thinks of the wanted answer."""

import json
from dataclasses import dataclass
from typing import Any

from service.errors import UpstreamFailed
from service.evaluation.questions import Question
from service.inference.engines import Engines
from service.inference.gateway import forward
from service.inference.routing import ServedModel
from tuning.graders.sample import Sample

SPARE_TOKENS = 16
"""An answer may be this much longer than twice the wanted one, so that one that goes on and on ends."""


@dataclass(frozen=True)
class Answer:
    sample: Sample
    loss: float
    """Sum of -log p over the wanted answer's tokens; 0 where there is none."""
    correct: int
    """Those of them that the model would have chosen."""
    tokens: int


async def answer(servers: Engines, model: ServedModel, question: Question, max_tokens: int | None) -> Answer:
    """Raises ApiError. `max_tokens`: of an answer whose length nobody knows."""
    sample = await _ask(servers, model, question, max_tokens)
    if not any(question.is_supervised[1:]):
        return Answer(sample, 0.0, 0, 0)
    loss, correct = await _measure(servers, model, question)
    return Answer(sample, loss, correct, sum(question.is_supervised[1:]))


def is_match(sample: Sample, expected: dict[str, Any]) -> bool:
    """The same text but for white space at its ends, and the same calls in the same order."""
    return sample.output_text.strip() == expected["content"].strip() and _calls(sample.output_tools) == _calls(
        expected.get("tool_calls", ())
    )


def as_text(message: Sample | dict[str, Any]) -> str:
    text, calls = (
        (message.output_text, message.output_tools)
        if isinstance(message, Sample)
        else (message["content"], message.get("tool_calls", ()))
    )
    return "\n".join([*([text] if text else []), *(f"{name}({arguments})" for name, arguments in _calls(calls))])


async def _ask(servers: Engines, model: ServedModel, question: Question, max_tokens: int | None) -> Sample:
    limit = 2 * question.expected_tokens + SPARE_TOKENS if question.expected is not None else max_tokens
    body: dict[str, Any] = {"messages": question.messages, "temperature": 0, "max_tokens": limit}
    if question.tools:
        body["tools"] = question.tools
        if model.base.tool_parser is None:  # its calls come as text, as they do for everybody
            body["tool_choice"] = "none"
    choice = await _answer_of(servers, "/v1/chat/completions", body, model)
    message = choice.get("message") or {}
    return Sample(message.get("content") or "", message.get("tool_calls") or ())


async def _measure(servers: Engines, model: ServedModel, question: Question) -> tuple[float, int]:
    # `prompt_logprobs` is vLLM's: the log-probability and the rank of each prompt token, given those before it.
    body = {"prompt": question.input_ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    measured = (await _answer_of(servers, "/v1/completions", body, model)).get("prompt_logprobs") or ()
    loss, correct = 0.0, 0
    try:
        for token, is_supervised, by_token in zip(
            question.input_ids[1:], question.is_supervised[1:], measured[1:], strict=True
        ):
            if is_supervised:
                loss -= by_token[str(token)]["logprob"]
                correct += by_token[str(token)]["rank"] == 1
    except (KeyError, TypeError, ValueError) as error:  # another engine, behind FETTLE_SERVING=remote
        raise UpstreamFailed(f"The model '{model.public_name}' did not say what it thinks of a prompt.") from error
    return loss, correct


async def _answer_of(servers: Engines, path: str, body: dict[str, Any], model: ServedModel) -> dict[str, Any]:
    response = await forward(servers, path, body, model)
    try:
        choice: dict[str, Any] = json.loads(bytes(response.body))["choices"][0]
    except (ValueError, KeyError, IndexError) as error:
        raise UpstreamFailed(f"The model '{model.public_name}' gave an answer that is none.") from error
    return choice


def _calls(calls: Any) -> list[tuple[str, str]]:
    return [(call["function"]["name"], _normal(call["function"]["arguments"])) for call in calls]


def _normal(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), sort_keys=True, ensure_ascii=False)
    except ValueError:  # a model may write anything
        return arguments
