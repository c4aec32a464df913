"""Held-out rows as questions: asked to a model, the answers compared with the row's last message."""

import itertools
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

CONCURRENT_QUESTIONS = 16
"""vLLM answers them as one batch; more only waits longer on two cores."""

MAX_ANSWER_TOKENS = 256


@dataclass(frozen=True)
class Question:
    messages: list[dict[str, Any]]
    """The row without its last message."""
    tools: list[dict[str, Any]]
    expected: "Answer"

    @property
    def text(self) -> str:
        """What the user said last."""
        return next((str(message["content"]) for message in reversed(self.messages) if message["role"] == "user"), "")


@dataclass(frozen=True)
class Answer:
    """Two answers match exactly when they are equal: the same calls with the same values, or the same text."""

    text: str
    calls: tuple[tuple[str, str], ...]
    """Name and arguments, as JSON with sorted keys, so that order and spaces do not count."""

    def __str__(self) -> str:
        return "; ".join(f"{name}({arguments})" for name, arguments in self.calls) or self.text

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Answer":
        functions = [call["function"] for call in message.get("tool_calls") or ()]
        calls = tuple((function["name"], _canonical(function["arguments"])) for function in functions)
        # what a model says beside its calls does not count: the calls are the answer
        return cls("" if calls else (message.get("content") or "").strip(), calls)


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Raises ValueError for a row that does not end with an assistant's message."""
    questions: list[Question] = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if limit is not None and len(questions) == limit:
                break
            if not line.strip():
                continue
            row = json.loads(line)
            *messages, last = row["messages"]
            if last.get("role") != "assistant" or not messages:
                raise ValueError(f"{path}, row {number}: a question needs an assistant's message at its end")
            questions.append(Question(messages, row.get("tools") or [], Answer.from_message(last)))
    return questions


def ask_all(
    client: openai.OpenAI, model: str, questions: Sequence[Question], on_answer: Callable[[int], None]
) -> list[Answer]:
    """Answers in the order of the questions; `on_answer` hears how many have come.

    A refused question (no room for an answer in the context) has its refusal for an answer. Raises OpenAIError when
    all are refused, and for every other failure.
    """
    answered = itertools.count(1)
    refusals: list[openai.BadRequestError] = []

    def ask(question: Question) -> Answer:
        try:
            answer = _ask(client, model, question)
        except openai.BadRequestError as error:
            refusals.append(error)
            answer = Answer(f"[refused: {error.message}]", ())
        on_answer(next(answered))
        return answer

    with ThreadPoolExecutor(CONCURRENT_QUESTIONS) as threads:
        answers = list(threads.map(ask, questions))
    if len(refusals) == len(questions):
        raise refusals[0]
    return answers


def share_of_exact_matches(questions: Sequence[Question], answers: Sequence[Answer]) -> float:
    matches = sum(question.expected == answer for question, answer in zip(questions, answers, strict=True))
    return matches / len(questions)


def _ask(client: openai.OpenAI, model: str, question: Question) -> Answer:
    messages: Any = question.messages
    tools: Any = question.tools or openai.omit  # an empty list is an error in OpenAI's API
    completion = client.chat.completions.create(
        model=model, messages=messages, tools=tools, temperature=0, max_tokens=MAX_ANSWER_TOKENS
    )
    return Answer.from_message(completion.choices[0].message.model_dump())


def _canonical(arguments: str | dict[str, Any]) -> str:
    """Arguments that are not JSON stay as they are, and match nothing that is."""
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except json.JSONDecodeError:
        return str(arguments)
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
