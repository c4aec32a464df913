"""What a job would be, before it is one: its base, its parent and its training, refused where it cannot be honoured.

It asks storage, the model's files and the sandbox of graders, so no transaction is open meanwhile.
"""

import asyncio
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from service.auth import Caller
from service.database.engine import Sessions
from service.errors import InvalidRequest
from service.evaluation.schemas import EvaluationRequest
from service.fine_tuning.resolution import AskedTraining, resolve
from service.fine_tuning.schemas import CreateJob
from service.fine_tuning.servability import Refusal, Wanted, refusal
from service.fine_tuning.training_rules import asks_for_shape, check_shape, check_training
from service.graders.graders import Graders
from service.models.adapters import read_manifest
from service.models.repository import get_usable_model
from service.object_storage.base import ObjectNotFound, ObjectStorage
from service.settings import Settings
from tuning.adapter_manifest import AdapterManifest
from tuning.catalogue import Catalogue, CatalogueEntry, CatalogueError
from tuning.model_shape import read_shape
from tuning.vllm_arguments import is_installed


@dataclass(frozen=True)
class JobPlan:
    asked: CreateJob
    base: CatalogueEntry
    parent_adapter_sha256: str | None
    """The adapter that training goes on from."""
    training: AskedTraining


@dataclass(frozen=True)
class Surroundings:
    """What a plan is checked against."""

    settings: Settings
    catalogue: Catalogue
    sessions: Sessions
    storage: ObjectStorage
    graders: Graders


async def plan_job(asked: CreateJob, caller: Caller, around: Surroundings) -> JobPlan:
    """Raises InvalidRequest for all that can be known now, but for the files."""
    async with around.sessions() as session:
        base, sha256 = await find_model(session, around.catalogue, caller, asked.model)
    check_training(asked, base)
    training = asked.asked_training
    parent = None
    if sha256 is not None and asks_for_shape(training.extension):
        parent = await _read_parent(around.storage, asked.model, sha256)
        check_shape(training.extension, parent, asked.model)
    if (reason := await find_refusal(training, base, parent)) is not None:
        raise InvalidRequest(reason.message, param=reason.param)
    if training.extension.adaptation == "qlora":
        _refuse_without_bitsandbytes(around.settings)
    if asked.reward is not None:
        await around.graders.validate_reward(caller.project_id, asked.reward, "method.reinforcement.grader")
    if training.extension.evaluation is not None:
        await _check_evaluation(training.extension.evaluation, caller, around)
    return JobPlan(asked, base, sha256, training)


async def find_refusal(
    training: AskedTraining, base: CatalogueEntry, parent: AdapterManifest | None, *, may_fetch: bool = False
) -> Refusal | None:
    """Why vLLM would not serve the result. What only the base model's files tell is left out where they are not on this
    machine, unless they may be fetched; then CatalogueError is raised where they cannot be read."""
    values = resolve(training, base, parent, rows=1, has_validation=False).values
    targets = values["target_modules"].value
    assert isinstance(targets, str | list)
    has_files = may_fetch or await asyncio.to_thread(lambda: base.is_fetched)
    wanted = Wanted(
        base=base.name,
        architecture=await asyncio.to_thread(_architecture, base, may_fetch) if has_files else None,
        max_lora_rank=base.max_lora_rank,
        adaptation=str(values["adaptation"].value),
        r=int(str(values["r"].value)),
        target_modules=targets if isinstance(targets, str) else [str(name) for name in targets],
        linear_modules=await asyncio.to_thread(_linear_modules, base)
        if has_files and isinstance(targets, list)
        else None,
    )
    return refusal(wanted)


def _architecture(base: CatalogueEntry, must_be_known: bool) -> str | None:
    try:
        return base.architecture
    except CatalogueError:  # a request cannot help it: validation tells what is wrong with the model
        if must_be_known:
            raise
        return None


def _linear_modules(base: CatalogueEntry) -> frozenset[str] | None:
    try:
        return frozenset(layer.name.rpartition(".")[2] for layer in read_shape(base).linear_layers)
    except CatalogueError:  # the trainer finds out
        return None


async def find_model(
    session: AsyncSession, catalogue: Catalogue, caller: Caller, name: str
) -> tuple[CatalogueEntry, str | None]:
    """The base model, and the adapter that training goes on from when `name` is a tuned model or a checkpoint."""
    if (entry := catalogue.get(name)) is not None:
        return entry, None
    tuned = await get_usable_model(session, caller.project_id, name)
    base = catalogue.get(tuned.base_model) if tuned is not None else None
    if tuned is None or base is None:
        raise InvalidRequest(
            f"Model {name} is not available for fine-tuning or does not exist. Available: "
            f"{', '.join(entry.name for entry in catalogue.models)}, and what was tuned from them.",
            param="model",
            code="model_not_available",
        )
    return base, tuned.adapter_sha256


async def _read_parent(storage: ObjectStorage, model: str, sha256: str) -> AdapterManifest:
    try:
        return await read_manifest(storage, sha256)
    except (ObjectNotFound, ValueError) as error:
        raise InvalidRequest(
            f"The adapter of model {model} can no longer be read: {error}. Name a base model or another tuned one.",
            param="model",
            code="model_not_available",
        ) from error


async def _check_evaluation(asked: EvaluationRequest, caller: Caller, around: Surroundings) -> None:
    if asked.rows and around.settings.serving == "off":
        raise InvalidRequest(
            "'evaluation' is refused: this server tunes models and does not serve them (FETTLE_SERVING=off), so that "
            "none could answer. Leave it out.",
            param="x_training.evaluation",
        )
    if asked.grader is not None:
        await around.graders.validate(caller.project_id, asked.grader, "x_training.evaluation.grader")


def _refuse_without_bitsandbytes(settings: Settings) -> None:
    """On a cluster the trainer's image has it."""
    if settings.executor == "local" and not is_installed("bitsandbytes"):
        raise InvalidRequest(
            "'qlora' is refused - 'adaptation': bitsandbytes, which holds the base in 4 bits, is not installed on this "
            "server. Use 'lora'; the operator may install it.",
            param="x_training.adaptation",
        )
