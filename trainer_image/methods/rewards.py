"""Rewards by the job's grader, as `/v1/fine_tuning/alpha/graders/run` gives them: many answers side by side."""

import asyncio
import math
import os
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from trainer_image.errors import TrainingFailed
from tuning.contract import ErrorCode
from tuning.graders.failure import GradingFailed
from tuning.graders.grading import Grade, Tools, grade
from tuning.graders.model_call import ModelAnswer
from tuning.graders.sample import Sample
from tuning.graders.sandbox import Sandbox, SandboxLimits, available_packages
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
from tuning.graders.templates import Reference, parse_template

PARAM = "method.reinforcement.grader"
MAX_REWARD = 1e30
"""Beyond it, in either direction, rewards cannot be compared in float32."""
MAX_FUZZY_PAIRS = 100_000_000
"""Of characters, one of each text. `fuzzy_match` takes time by their number: so many take five seconds."""


@dataclass(frozen=True)
class Reward:
    value: float
    """0 when there is a failure."""
    failure: str | None = None
    """Why the grader gave none; it may quote the user's data."""


class RewardGrader:
    def __init__(self, grader: Mapping[str, Any], private: Sequence[Path]) -> None:
        """`private`: folders that no python grader may see. Raises TrainingFailed for a grader that cannot grade in a
        trainer, before anything is trained."""
        self._grader = _parse(grader)
        cores = len(os.sched_getaffinity(0))
        self._sandbox = Sandbox(SandboxLimits(at_once=cores), private)
        self._tools = Tools(ask_model=_ask_model, run_python=self._sandbox.run, measure_similarity=_measure)
        # One event loop for all calls: the sandbox's locks belong to the first that they meet.
        self._loop = asyncio.new_event_loop()
        weakref.finalize(self, self._loop.close)
        self._loop.run_until_complete(self._check())

    def grade(self, answers: Sequence[tuple[Sample, Mapping[str, Any]]]) -> list[Reward]:
        """`answers`: each with its row, the `item`."""
        return self._loop.run_until_complete(self._grade(answers))

    async def _grade(self, answers: Sequence[tuple[Sample, Mapping[str, Any]]]) -> list[Reward]:
        grades = (grade(self._grader, sample, item, self._tools) for sample, item in answers)
        return [_as_reward(each) for each in await asyncio.gather(*grades)]

    async def _check(self) -> None:
        for part in _parts(self._grader):
            if isinstance(part, ScoreModelGrader | LabelModelGrader):
                raise _failed(
                    f"The grader '{part.name}' asks a model ({part.type}), and a trainer can ask none. "
                    "Use string_check, text_similarity, python, or a multi grader of these."
                )
            if isinstance(part, StringCheckGrader | TextSimilarityGrader) and _names_tools(part):
                raise _failed(
                    f"The grader '{part.name}' names sample.output_tools, and answers are drawn as plain text here: "
                    "calls of tools are not read out of them. Use {{sample.output_text}}, where the model writes them."
                )
            if isinstance(part, PythonGrader):
                await self._check_python(part)

    async def _check_python(self, grader: PythonGrader) -> None:
        if (refusal := await self._sandbox.refusal()) is not None:
            raise _failed(
                f"The grader '{grader.name}' is Python code, which runs only in a sandbox, and where this job trains "
                f"there is none: {refusal}. Use string_check, text_similarity or a multi grader of these, or have the "
                "operator allow sandboxes there (docs/reinforcement.md)."
            )
        try:
            await self._sandbox.load(grader.source)
        except GradingFailed as failure:
            packages = f" Besides the standard library there are {', '.join(available_packages())}."
            hint = packages if "ModuleNotFoundError" in failure.detail else ""
            raise _failed(
                f"The source of the grader '{grader.name}' does not load: {failure.detail}.{hint}"
            ) from failure


def _parse(grader: Mapping[str, Any]) -> Grader:
    try:
        parsed: Grader = TypeAdapter(Grader).validate_python(grader)
    except ValidationError as error:
        raise _failed(f"The grader is not valid: {error.errors(include_url=False, include_input=False)}") from error
    return parsed


def _parts(grader: Grader) -> Iterator[SubGrader]:
    if isinstance(grader, MultiGrader):
        yield from grader.graders.values()
    else:
        yield grader


def _names_tools(grader: StringCheckGrader | TextSimilarityGrader) -> bool:
    pieces = [*parse_template(grader.input), *parse_template(grader.reference)]
    return any(
        isinstance(piece, Reference) and {"output_tools", "tool_calls"} & set(piece.path) and piece.path[0] == "sample"
        for piece in pieces
    )


def _as_reward(result: Grade) -> Reward:
    if result.failures:
        return Reward(0.0, "; ".join(f"{failure.flag}: {failure.detail}" for failure in result.failures))
    if not math.isfinite(result.reward) or abs(result.reward) > MAX_REWARD:
        return Reward(0.0, f"the reward {result.reward} is not a number between -{MAX_REWARD:g} and {MAX_REWARD:g}")
    return Reward(result.reward)


async def _measure(metric: str, text: str, reference: str) -> float:
    """In a thread: it takes milliseconds, and is bounded by what it is given, not by a clock, so that a run that is
    repeated sees the same."""
    if metric == "fuzzy_match" and len(text) * len(reference) > MAX_FUZZY_PAIRS:
        reason = f"'fuzzy_match' of {len(text)} and {len(reference)} characters would take too long. Use another metric"
        raise GradingFailed("other_error", reason)
    # Imported here because most jobs have no use for it, and it takes a third of a second.
    from tuning.graders.similarity_metrics import measure_similarity

    return await asyncio.to_thread(measure_similarity, metric, text, reference)


async def _ask_model(body: Mapping[str, Any]) -> ModelAnswer:
    raise AssertionError("a grader that asks a model was let through")


def _failed(message: str) -> TrainingFailed:
    return TrainingFailed(ErrorCode.GRADER_FAILED, message, PARAM)
