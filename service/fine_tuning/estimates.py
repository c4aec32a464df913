"""The rules of estimates: what a job would be, asked before it is made, and how many may be worked out at once."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.auth import Caller
from service.database.engine import Sessions
from service.database.tables import JobRow
from service.errors import InvalidRequest, TooManyRequests, Unavailable
from service.files.files import get_input_file, storage_key
from service.fine_tuning.estimate_answer import EstimateQuestion, answer
from service.fine_tuning.estimate_schemas import JobEstimate, Reason
from service.fine_tuning.estimated_time import list_finished_runs
from service.fine_tuning.jobs import new_job
from service.fine_tuning.planning import Surroundings, find_model, plan_job
from service.fine_tuning.schemas import CreateJob
from service.fine_tuning.status import JobStatus
from service.fine_tuning.validation import FileToCheck
from service.graders.graders import Graders
from service.models.adapters import read_manifest
from service.object_storage.base import ObjectNotFound, ObjectStorage
from service.settings import Settings
from service.worker_process import WorkerDied
from tuning.adapter_manifest import AdapterManifest
from tuning.catalogue import Catalogue, CatalogueError

AT_ONCE = max(2, os.cpu_count() or 1)
"""Of all projects, in this process. Each is a process that renders rows as fast as a core can."""
AT_ONCE_OF_A_PROJECT = 1
_RETRY_AFTER_SECONDS = 5

FileParam = Literal["training_file", "validation_file"]


class Estimates:
    def __init__(
        self, settings: Settings, catalogue: Catalogue, sessions: Sessions, storage: ObjectStorage, graders: Graders
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._sessions = sessions
        self._storage = storage
        self._graders = graders
        self._running: list[str] = []
        """The projects of those under way."""

    async def estimate(self, caller: Caller, asked: CreateJob) -> JobEstimate:
        """Raises InvalidRequest for a request that no estimate can be made of; everything else that would keep the job
        from being admitted is in the answer. Whatever it started ends when it is cancelled."""
        async with self._place(caller.project_id):
            question = await self._question(caller, asked)
            try:
                return await answer(question, self._settings)
            except CatalogueError as error:
                raise InvalidRequest(str(error), param="model", code="model_unavailable") from error
            except WorkerDied as error:
                message = "The process that reads the files died, of too little memory perhaps. Try again."
                raise Unavailable(message, retry_after_seconds=_RETRY_AFTER_SECONDS) from error

    @asynccontextmanager
    async def _place(self, project_id: str) -> AsyncIterator[None]:
        if self._running.count(project_id) >= AT_ONCE_OF_A_PROJECT:
            reason = "An estimate of this project is being made already; there is one at a time."
        elif len(self._running) >= AT_ONCE:
            reason = f"This server already makes {AT_ONCE} estimates."
        else:
            self._running.append(project_id)
            try:
                yield
            finally:
                self._running.remove(project_id)
            return
        raise TooManyRequests(f"{reason} Try again in a moment.", retry_after_seconds=_RETRY_AFTER_SECONDS)

    async def _question(self, caller: Caller, asked: CreateJob) -> EstimateQuestion:
        async with self._sessions() as session:
            entry, parent_sha256 = await find_model(session, self._catalogue, caller, asked.model)
            training = await self._file(session, caller, asked.training_file, "training_file")
            validation = None
            if asked.validation_file is not None:
                validation = await self._file(session, caller, asked.validation_file, "validation_file")
            finished_runs = await list_finished_runs(session, entry.name)
            jobs_ahead = await _count_waiting(session)
        refusals = await self._refusals(caller, asked)
        if asked.method is not None and asked.x_training is not None and asked.x_training.method is not None:
            raise InvalidRequest(refusals[0].message, param=refusals[0].param)  # nobody can tell which one is meant
        parent, damage = await self._parent(asked.model, parent_sha256)
        extension = asked.x_training
        resources = extension.resources.model_dump(exclude_unset=True) if extension and extension.resources else None
        return EstimateQuestion(
            model=asked.model,
            entry=entry,
            parent=parent,
            asked=asked.asked_training,
            resources=resources,
            training=training,
            validation=validation,
            refusals=tuple(refusals or damage),
            finished_runs=finished_runs,
            jobs_ahead=jobs_ahead,
        )

    async def _file(self, session: AsyncSession, caller: Caller, file_id: str, param: FileParam) -> FileToCheck:
        await get_input_file(session, caller.project_id, file_id, purpose="fine-tune", param=param)
        return FileToCheck(self._storage.uri(storage_key(file_id)), param)

    async def _refusals(self, caller: Caller, asked: CreateJob) -> list[Reason]:
        around = Surroundings(self._settings, self._catalogue, self._sessions, self._storage, self._graders)
        try:
            plan = await plan_job(asked, caller, around)
            async with self._sessions() as session:
                await new_job(session, self._settings, caller, plan)
        except InvalidRequest as refusal:
            return [Reason(message=refusal.message, param=refusal.param, code=refusal.code)]
        return []

    async def _parent(self, model: str, sha256: str | None) -> tuple[AdapterManifest | None, list[Reason]]:
        if sha256 is None:
            return None, []
        try:
            return await read_manifest(self._storage, sha256), []
        except (ObjectNotFound, ValueError) as error:
            message = f"The adapter of model {model} cannot be read: {error}. Name a base model or another tuned one."
            return None, [Reason(message=message, param="model", code="model_unavailable")]


async def _count_waiting(session: AsyncSession) -> int:
    """Jobs that have no place to run yet; paused ones wait for their owners."""
    waiting = (
        select(func.count())
        .select_from(JobRow)
        .where(
            JobRow.status.in_((JobStatus.VALIDATING_FILES, JobStatus.QUEUED)),
            JobRow.execution.is_(None),
            JobRow.is_paused.is_(False),
        )
    )
    return await session.scalar(waiting) or 0
