"""Grades one answer: which file a grader's kind is in, what it took, and what went wrong."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tuning.graders.failure import GradingFailed
from tuning.graders.label_model import label_with_model
from tuning.graders.model_call import AskModel, ModelAnswer, TokenUsage
from tuning.graders.multi import combine_rewards
from tuning.graders.sample import Namespaces, Sample, namespaces_of
from tuning.graders.schemas import (
    Grader,
    LabelModelGrader,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    StringCheckGrader,
    SubGrader,
    TextSimilarityGrader,
)
from tuning.graders.score_model import score_with_model
from tuning.graders.string_check import check_string
from tuning.graders.text_similarity import MeasureSimilarity, compare_texts

RunPython = Callable[[str, Namespaces], Awaitable[float]]
"""The source of a python grader, what it may look at → what its `grade` returns. Raises GradingFailed."""


@dataclass(frozen=True)
class Tools:
    """What graders need of whoever runs them."""

    ask_model: AskModel
    run_python: RunPython
    measure_similarity: MeasureSimilarity


@dataclass
class Grade:
    name: str
    type: str
    reward: float = 0.0
    failures: list[GradingFailed] = field(default_factory=list)
    """With one of these the reward is 0."""
    scores: dict[str, Any] = field(default_factory=dict)
    sub_rewards: dict[str, float] = field(default_factory=dict)
    usage: dict[str, TokenUsage] = field(default_factory=dict)
    """By the model that was asked."""
    seconds: float = 0.0


async def grade(grader: Grader, sample: Sample, item: Mapping[str, Any], tools: Tools) -> Grade:
    """Never raises for what the answer or the item is like: see `failures`."""
    namespaces = namespaces_of(sample, item)
    if isinstance(grader, MultiGrader):
        return await _grade_with_many(grader, namespaces, tools)
    return await _grade_with_one(grader, namespaces, tools)


async def _grade_with_many(grader: MultiGrader, namespaces: Namespaces, tools: Tools) -> Grade:
    started = time.monotonic()
    grades = await asyncio.gather(*(_grade_with_one(each, namespaces, tools) for each in grader.graders.values()))
    whole = Grade(grader.name, grader.type)
    for name, part in zip(grader.graders, grades, strict=True):
        whole.sub_rewards[name] = part.reward
        whole.failures += [GradingFailed(failure.flag, f"{name}: {failure.detail}") for failure in part.failures]
        if part.scores:
            whole.scores[name] = part.scores
        for model, usage in part.usage.items():
            _add_usage(whole, model, usage)
    try:
        # a part that failed is worth 0 by itself, and can be worth anything in a formula: `1 - part`
        whole.reward = 0.0 if whole.failures else combine_rewards(grader, whole.sub_rewards)
    except GradingFailed as failure:
        whole.failures.append(failure)
    whole.seconds = time.monotonic() - started
    return whole


async def _grade_with_one(grader: SubGrader, namespaces: Namespaces, tools: Tools) -> Grade:
    started = time.monotonic()
    result = Grade(grader.name, grader.type)

    async def ask(body: Mapping[str, Any]) -> ModelAnswer:
        answer = await tools.ask_model(body)
        _add_usage(result, answer.model, answer.usage)  # also of an answer that cannot be read
        return answer

    try:
        result.reward = await _reward(grader, namespaces, tools, ask, result.scores)
    except GradingFailed as failure:
        result.failures.append(failure)
    threshold = getattr(grader, "pass_threshold", None)
    if threshold is not None:
        result.scores["passed"] = not result.failures and result.reward >= threshold
    result.seconds = time.monotonic() - started
    return result


async def _reward(
    grader: SubGrader, namespaces: Namespaces, tools: Tools, ask: AskModel, scores: dict[str, Any]
) -> float:
    match grader:
        case StringCheckGrader():
            return check_string(grader, namespaces)
        case TextSimilarityGrader():
            return await compare_texts(grader, namespaces, tools.measure_similarity)
        case PythonGrader():
            return await tools.run_python(grader.source, namespaces)
        case ScoreModelGrader():
            return await score_with_model(grader, namespaces, ask)
        case LabelModelGrader():
            scores["label"] = await label_with_model(grader, namespaces, ask)
            return float(scores["label"] in grader.passing_labels)


def _add_usage(grade: Grade, model: str, usage: TokenUsage) -> None:
    grade.usage[model] = grade.usage.get(model, TokenUsage()).plus(usage)
