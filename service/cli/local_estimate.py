"""An estimate on this machine without a service: from the catalogue and the files alone."""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.errors import InvalidRequest, describe_validation_errors
from service.fine_tuning.estimate_answer import EstimateQuestion, answer
from service.fine_tuning.estimate_schemas import JobEstimate
from service.fine_tuning.schemas import CreateJob
from service.fine_tuning.training_rules import check_training
from service.fine_tuning.validation import FileToCheck
from service.settings import Settings
from service.worker_process import WorkerDied
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueError

_NO_ID = "file-" + "0" * 22
"""The request wants ids; the files are read where they are."""


class CannotEstimate(Exception):
    pass


def estimate_here(
    request: dict[str, Any], training_file: Path, validation_file: Path | None, models: Path | None
) -> JobEstimate:
    """Raises CannotEstimate."""
    try:
        files = {"training_file": _NO_ID} | ({"validation_file": _NO_ID} if validation_file else {})
        asked = CreateJob.model_validate(request | files)
        catalogue = Catalogue.load(models or DEFAULT_CATALOGUE)
        entry = catalogue.get(asked.model)
        if entry is None:
            names = ", ".join(each.name for each in catalogue.models)
            raise CannotEstimate(
                f"{asked.model} is not in the catalogue, which has {names}. Of a tuned model only its service can "
                "tell: give --base-url."
            )
        check_training(asked, entry)
        question = EstimateQuestion(
            model=asked.model,
            entry=entry,
            parent=None,
            asked=asked.asked_training,
            resources=None,
            training=FileToCheck(training_file.resolve().as_uri(), "training_file"),
            validation=FileToCheck(validation_file.resolve().as_uri(), "validation_file") if validation_file else None,
            finished_runs=None,
        )
        return asyncio.run(answer(question, Settings()))
    except ValidationError as error:
        errors = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise CannotEstimate(describe_validation_errors(errors, request).message) from error
    except InvalidRequest as error:
        raise CannotEstimate(error.message) from error
    except (CatalogueError, WorkerDied) as error:
        raise CannotEstimate(str(error)) from error
