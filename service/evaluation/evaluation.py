"""Asks both models all questions, and puts the answers side by side. It never fails the job: at worst it says why
there is nothing to say."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from service.errors import ApiError
from service.evaluation.answers import Answer, answer, as_text, is_match
from service.evaluation.questions import HeldOut, Question, draw_questions
from service.evaluation.schemas import Evaluation, EvaluationSample, Score
from service.graders.graders import Graders
from service.inference.engines import Engines
from service.inference.routing import ServedModel
from service.settings import Settings
from service.worker_process import WorkerDied
from tuning.catalogue import CatalogueEntry
from tuning.graders.schemas import Grader

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Rows that are being answered: vLLM works on them together, and leaves room for other people's requests."""
MAX_SAMPLES = 5
MAX_SAMPLE_CHARACTERS = 1000

Pair = tuple[Answer, Answer]


@dataclass(frozen=True)
class Comparison:
    project_id: str
    before: ServedModel
    after: ServedModel
    held_out: HeldOut
    grader: Grader | None
    max_tokens: int | None
    """Of an answer whose length nobody knows."""


class Evaluator:
    def __init__(self, settings: Settings, servers: Engines, graders: Graders) -> None:
        self._settings = settings
        self._servers = servers
        self._graders = graders

    def serves(self, base: CatalogueEntry) -> bool:
        return self._servers.serves(base)

    async def evaluate(self, comparison: Comparison) -> Evaluation:
        """Safe to repeat: the rows and the answers are the same."""
        baseline = comparison.before.public_name
        try:
            questions = await draw_questions(comparison.held_out, comparison.before.base, self._settings)
        except WorkerDied as error:
            reason: str | None = f"the held-out rows could not be read ({error})."
            return Evaluation(status="failed", reason=reason, baseline=baseline, rows=0)
        answered, reason = await self._answer_all(comparison, questions)
        if not answered:
            reason = reason or "the validation file has no row that can be asked."
            return Evaluation(status="failed", reason=reason, baseline=baseline, rows=0)
        found = _compared(baseline, answered, reason)
        if comparison.grader is None:
            return found
        return await self._with_grades(found, comparison, comparison.grader, answered)

    async def _answer_all(
        self, comparison: Comparison, questions: Sequence[Question]
    ) -> tuple[list[tuple[Question, Pair]], str | None]:
        """What both answered, and why some rows are missing."""
        room = asyncio.Semaphore(AT_ONCE)
        answers: dict[int, Pair] = {}
        refusals: list[str] = []

        async def ask(question: Question) -> None:
            async with room:
                try:
                    before, after = [
                        await answer(self._servers, model, question, comparison.max_tokens)
                        for model in (comparison.before, comparison.after)
                    ]
                except ApiError as error:
                    refusals.append(f"Row {question.row} was not answered: {error.message}")
                else:
                    answers[question.row] = (before, after)

        limit: timedelta = self._settings.evaluation_timeout
        try:
            async with asyncio.timeout(limit.total_seconds()), asyncio.TaskGroup() as tasks:
                for question in questions:
                    tasks.create_task(ask(question))
        except TimeoutError:
            missing = len(questions) - len(answers)
            refusals.insert(0, f"{missing} rows were not answered within {limit.total_seconds():g} s.")
        answered = [(each, answers[each.row]) for each in questions if each.row in answers]
        return answered, refusals[0] if refusals else None

    async def _with_grades(
        self, found: Evaluation, comparison: Comparison, grader: Grader, answered: Sequence[tuple[Question, Pair]]
    ) -> Evaluation:
        room = asyncio.Semaphore(AT_ONCE)

        async def reward(question: Question, given: Answer) -> float | None:
            async with room:
                grade = await self._graders.run(
                    comparison.project_id,
                    grader,
                    given.sample.output_text,
                    question.item,
                    output_tools=given.sample.output_tools,
                )
            return None if grade.failures else grade.reward

        try:
            rewards = await asyncio.gather(*(reward(question, each) for question, pair in answered for each in pair))
        except ApiError as error:
            return found.model_copy(update={"reason": f"The grader could not be asked: {error.message}"})
        values = [each or 0.0 for each in rewards]
        score = Score(before=_mean(values[0::2]), after=_mean(values[1::2]))
        return found.model_copy(update={"grader": score, "grader_failures": rewards.count(None)})


def _compared(baseline: str, answered: Sequence[tuple[Question, Pair]], reason: str | None) -> Evaluation:
    known = [(question.expected, pair) for question, pair in answered if question.expected is not None]
    befores, afters = [pair[0] for _, pair in known], [pair[1] for _, pair in known]
    tokens = sum(each.tokens for each in befores)
    exact_match = token_accuracy = loss = None
    if known:
        exact_match = Score(
            before=_mean([is_match(pair[0].sample, expected) for expected, pair in known]),
            after=_mean([is_match(pair[1].sample, expected) for expected, pair in known]),
        )
    if tokens:
        token_accuracy = Score(
            before=sum(each.correct for each in befores) / tokens, after=sum(each.correct for each in afters) / tokens
        )
        loss = Score(
            before=sum(each.loss for each in befores) / tokens, after=sum(each.loss for each in afters) / tokens
        )
    return Evaluation(
        status="completed",
        reason=reason,
        baseline=baseline,
        rows=len(answered),
        exact_match=exact_match,
        token_accuracy=token_accuracy,
        loss=loss,
        samples=[_sample(question, pair) for question, pair in answered[:MAX_SAMPLES]],
    )


def _sample(question: Question, pair: Pair) -> EvaluationSample:
    return EvaluationSample(
        row=question.row,
        question=_short(question.messages[-1]["content"] if question.messages else ""),
        expected=None if question.expected is None else _short(as_text(question.expected)),
        before=_short(as_text(pair[0].sample)),
        after=_short(as_text(pair[1].sample)),
    )


def _short(text: str) -> str:
    return text if len(text) <= MAX_SAMPLE_CHARACTERS else text[:MAX_SAMPLE_CHARACTERS] + "…"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
