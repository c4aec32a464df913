"""An estimate from what is known of a job: its files are validated as the job's would be, and nothing is stored."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.fine_tuning.estimate_schemas import Admission, JobEstimate, PriceEstimate, Reason, TimeEstimate
from service.fine_tuning.estimated_memory import estimate_memory, shortage
from service.fine_tuning.estimated_time import FinishedRun, estimate_time
from service.fine_tuning.overlap import ValidationReceipt
from service.fine_tuning.planning import find_refusal
from service.fine_tuning.resolution import AskedTraining, ResolvedTraining, max_length, resolve
from service.fine_tuning.validation import FileToCheck, ValidationFailed, validate_files
from service.settings import Settings
from tuning.adapter_manifest import AdapterManifest
from tuning.catalogue import CatalogueEntry
from tuning.contract import ErrorCode
from tuning.data.receipt import DataReceipt
from tuning.resources import TrainingResources


@dataclass(frozen=True)
class EstimateQuestion:
    model: str
    """As asked for."""
    entry: CatalogueEntry
    """Of the base model."""
    parent: AdapterManifest | None
    """Of the adapter that training goes on from."""
    asked: AskedTraining
    resources: dict[str, Any] | None
    """As asked for."""
    training: FileToCheck
    validation: FileToCheck | None
    refusals: tuple[Reason, ...] = ()
    """Why the job would not be created."""
    finished_runs: Sequence[FinishedRun] | None = None
    """Of this base model; None: nobody can tell."""
    jobs_ahead: int | None = None


async def answer(question: EstimateQuestion, settings: Settings) -> JobEstimate:
    """Raises CatalogueError and WorkerDied. The worker ends when this is cancelled."""
    refusals = list(question.refusals) or await _unservable(question)
    training = validation = resolved = None
    try:
        training, validation = await _validate(question, settings)
        resolved = resolve(
            question.asked,
            question.entry,
            question.parent,
            rows=training.trained_rows,
            has_validation=validation is not None,
        )
    except ValidationFailed as failure:
        error = failure.error
        refusals.append(Reason(message=error.message, param=error.param, code=error.code))
    memory = await estimate_memory(
        question.entry,
        question.asked.method,
        resolved.values if resolved else None,
        training,
        _resources(question, settings),
        settings,
    )
    is_short = shortage(memory, settings, resolved.values if resolved else None)
    trained_tokens = _trained_tokens(training, resolved)
    return JobEstimate(
        model=question.model,
        method=question.asked.method,
        rows=training.rows if training else None,
        trained_rows=training.trained_rows if training else None,
        tokens=training.tokens if training else None,
        supervised_tokens=training.supervised_tokens if training else None,
        trained_tokens=trained_tokens,
        steps=_steps(training, resolved),
        hyperparameters=_without_grader(resolved),
        x_resolved=resolved.values if resolved else None,
        memory=memory,
        seconds=_time(question, trained_tokens),
        price=_price(question, trained_tokens),
        admission=Admission(
            would_be_admitted=not refusals,
            reasons=refusals,
            warnings=[warning for warning in (is_short, _maintenance(settings)) if warning is not None],
            jobs_ahead=question.jobs_ahead,
        ),
        training_receipt=training,
        validation_receipt=validation,
    )


async def _unservable(question: EstimateQuestion) -> list[Reason]:
    """What validation would find, with the base model's own files."""
    reason = await find_refusal(question.asked, question.entry, question.parent, may_fetch=True)
    if reason is None:
        return []
    return [Reason(message=reason.message, param=reason.param, code=ErrorCode.ADAPTER_NOT_SERVABLE)]


async def _validate(question: EstimateQuestion, settings: Settings) -> tuple[DataReceipt, ValidationReceipt | None]:
    return await validate_files(
        question.entry,
        question.training,
        question.validation,
        settings,
        method=question.asked.method,
        max_length=max_length(question.asked, question.entry),
    )


def _resources(question: EstimateQuestion, settings: Settings) -> TrainingResources | None:
    """None: of this machine."""
    if settings.executor == "local":
        return None
    return question.entry.training.model_copy(update=question.resources or {})


def _trained_tokens(receipt: DataReceipt | None, resolved: ResolvedTraining | None) -> int | None:
    """Of reinforcement the most there may be: each answer to each prompt, as long as it may get."""
    if receipt is None or resolved is None:
        return None
    tokens = receipt.tokens
    if (samples := resolved.values.get("samples_per_prompt")) is not None:
        longest = resolved.values["max_completion_tokens"]
        tokens = int(str(samples.value)) * (tokens + receipt.trained_rows * int(str(longest.value)))
    return tokens * int(resolved.hyperparameters["n_epochs"])


def _steps(receipt: DataReceipt | None, resolved: ResolvedTraining | None) -> int | None:
    if receipt is None or resolved is None:
        return None
    numbers = resolved.hyperparameters
    return math.ceil(receipt.trained_rows / int(numbers["batch_size"])) * int(numbers["n_epochs"])


def _without_grader(resolved: ResolvedTraining | None) -> dict[str, Any] | None:
    if resolved is None:
        return None
    return {name: value for name, value in resolved.hyperparameters.items() if name != "grader"}


def _time(question: EstimateQuestion, trained_tokens: int | None) -> TimeEstimate:
    if trained_tokens is None:
        return TimeEstimate(value=None, because="the files are refused")
    if question.finished_runs is None:
        return TimeEstimate(value=None, because="only a service knows its own speed: give its --base-url")
    return estimate_time(question.finished_runs, question.asked.method, question.resources, trained_tokens)


def _price(question: EstimateQuestion, trained_tokens: int | None) -> PriceEstimate | None:
    rate = question.entry.price_per_million_tokens
    if rate is None or trained_tokens is None:
        return None
    amount = round(trained_tokens * rate / 1_000_000, 6)
    return PriceEstimate(amount=amount, currency=question.entry.currency, per_million_tokens=rate)


def _maintenance(settings: Settings) -> Reason | None:
    if settings.max_running_jobs > 0:
        return None
    message = "This server starts no jobs at the moment (FETTLE_MAX_RUNNING_JOBS=0): the job would wait in the queue."
    return Reason(message=message, param=None, code="no_jobs_started")
