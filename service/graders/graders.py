"""The rules of graders: what can be graded with here, and how many runs at once."""

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from service.errors import InvalidRequest, Unavailable
from service.graders.models import GraderModels
from service.graders.similarity import SimilarityWorkers
from service.inference.engines import Engines
from service.inference.routing import FindServedModel
from service.settings import Settings
from tuning.graders.failure import GradingFailed
from tuning.graders.grading import Grade, Tools, grade
from tuning.graders.sample import Sample
from tuning.graders.sandbox import Sandbox, SandboxLimits, available_packages
from tuning.graders.schemas import (
    Grader,
    LabelModelGrader,
    MultiGrader,
    PythonGrader,
    ScoreModelGrader,
    SubGrader,
)

MAX_RUNS_AT_ONCE = 64
"""Each may wait minutes for a model or its sandbox; more are asked to come again."""


class Graders:
    def __init__(self, settings: Settings, servers: Engines | None, find_model: FindServedModel) -> None:
        at_once = os.cpu_count() or 1
        limits = SandboxLimits(settings.grader_timeout, settings.grader_memory_mib * 1024**2, at_once)
        self._sandbox = Sandbox(limits, private=[settings.data_dir])
        self._models = GraderModels(settings, servers, find_model)
        self._similarity = SimilarityWorkers(at_once)
        self._running = 0

    async def run(
        self,
        project_id: str,
        grader: Grader,
        answer: str,
        item: Mapping[str, Any],
        output_tools: Sequence[Mapping[str, Any]] = (),
    ) -> Grade:
        """Raises ApiError when this grader can grade nothing here."""
        async with self._place():
            await self._check(project_id, grader)
            tools = Tools(
                ask_model=partial(self._models.ask, project_id),
                run_python=self._sandbox.run,
                measure_similarity=self._similarity.measure,
            )
            return await grade(grader, Sample(answer, output_tools), item, tools)

    async def validate(self, project_id: str, grader: Grader, place: str = "grader") -> None:
        """As `run` raises, and also when the source of a python grader does not load. `place`: in the request."""
        async with self._place():
            await self._check(project_id, grader, place)
            await self._load_parts(grader, place)

    async def validate_reward(self, project_id: str, grader: Grader, place: str) -> None:
        """As `validate` raises, and for graders that ask a model."""
        for param, part in _parts(grader, place):
            if isinstance(part, ScoreModelGrader | LabelModelGrader):
                raise InvalidRequest(
                    f"'{part.type}' is refused - 'type': a grader of a reinforcement job runs where the job trains, "
                    "which has no way to a model. Use a 'string_check', 'text_similarity', 'python' or 'multi' grader.",
                    param=f"{param}.type",
                )
        await self.validate(project_id, grader, place)

    async def close(self) -> None:
        await self._models.close()

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        if self._running >= MAX_RUNS_AT_ONCE:
            message = f"This server already runs {MAX_RUNS_AT_ONCE} graders. Try again in a moment."
            raise Unavailable(message, retry_after_seconds=5, code="too_many_graders")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _check(self, project_id: str, grader: Grader, place: str = "grader") -> None:
        for param, part in _parts(grader, place):
            if isinstance(part, ScoreModelGrader | LabelModelGrader):
                await self._models.check(project_id, part.model, f"{param}.model")
            elif isinstance(part, PythonGrader) and (reason := await self._sandbox.refusal()) is not None:
                message = f"Python graders are refused here, for they run your code only in a sandbox: {reason}."
                raise InvalidRequest(message, param=f"{param}.type", code="python_grader_unavailable")

    async def _load_parts(self, grader: Grader, place: str) -> None:
        for param, part in _parts(grader, place):
            if isinstance(part, PythonGrader):
                await self._load(part, f"{param}.source")

    async def _load(self, grader: PythonGrader, param: str) -> None:
        try:
            await self._sandbox.load(grader.source)
        except GradingFailed as failure:
            message = f"Invalid value for 'source': {failure.detail}."
            if "ModuleNotFoundError" in failure.detail:
                message += f" Besides the standard library there are {', '.join(available_packages())}."
            raise InvalidRequest(message, param=param) from failure


def _parts(grader: Grader, place: str) -> Iterator[tuple[str, SubGrader]]:
    """The graders that grade by themselves, each with its place in the request."""
    if isinstance(grader, MultiGrader):
        yield from ((f"{place}.graders.{name}", part) for name, part in grader.graders.items())
    else:
        yield place, grader
