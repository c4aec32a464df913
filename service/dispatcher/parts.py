"""What steps work with, and the names that they make from a job: the same ones every time."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.database.engine import Sessions
from service.database.tables import JobRow
from service.evaluation.evaluation import Evaluator
from service.executors.base import Executor
from service.inference.routing import ServedModel
from service.object_storage.base import ObjectStorage
from service.operations.telemetry import Telemetry
from service.settings import Settings
from tuning.catalogue import Catalogue, CatalogueEntry, CatalogueError
from tuning.resources import TrainingResources


@dataclass(frozen=True)
class Parts:
    """Made once, in `app.py`."""

    settings: Settings
    catalogue: Catalogue
    sessions: Sessions
    storage: ObjectStorage
    executor: Executor
    telemetry: Telemetry
    warm: Callable[[ServedModel], Awaitable[None]] | None
    """Loads a tuned model where it is served; None: nothing is served here."""
    evaluator: Evaluator | None
    """Compares a tuned model with what it was tuned from; None: nothing is served here."""

    def resources_of(self, job: JobRow) -> TrainingResources:
        """What the job asked for, else what its base model gets; on one machine a trainer has what there is.

        Raises CatalogueError.
        """
        if self.settings.executor == "local":
            return TrainingResources()
        return self.base_of(job).training.model_copy(update=job.resources or {})

    def base_of(self, job: JobRow) -> CatalogueEntry:
        """Raises CatalogueError."""
        entry = self.catalogue.get(job.base_model)
        if entry is None:
            raise CatalogueError(f"The base model {job.base_model} is no longer in this server's catalogue.")
        return entry


def logs_prefix(job: JobRow) -> str:
    """Where what the trainers of all attempts printed lies; without a trailing slash."""
    return f"jobs/{job.id}/logs"


def run_prefix(job: JobRow, attempt: int | None = None) -> str:
    """Where an attempt's spec, events and result lie; by default the current one's."""
    return f"jobs/{job.id}/attempts/{job.attempt if attempt is None else attempt}"
