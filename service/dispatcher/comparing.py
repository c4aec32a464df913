"""The tuned model beside the one that it was tuned from, on held-out rows, before the job is told to have succeeded."""

from typing import cast

from pydantic import TypeAdapter

from service.database.tables import JobRow
from service.dispatcher.parts import Parts
from service.evaluation.evaluation import Comparison
from service.evaluation.questions import HeldOut
from service.evaluation.schemas import Evaluation, EvaluationRequest
from service.files.files import storage_key
from service.fine_tuning.training_extension import TrainingExtension
from service.inference.routing import ServedModel
from tuning.contract import MethodName
from tuning.data.receipt import DataReceipt
from tuning.graders.schemas import Grader

_GRADER: TypeAdapter[Grader] = TypeAdapter(Grader)


async def compare(job: JobRow, adapter_sha256: str, parts: Parts) -> Evaluation | None:
    """None: there is nothing to compare on, it was not wanted, or nobody answers here."""
    asked = TrainingExtension.from_column(job.x_training).evaluation or EvaluationRequest()
    base = parts.base_of(job)
    if job.validation_file is None or not asked.rows or parts.evaluator is None or not parts.evaluator.serves(base):
        return None
    receipt = DataReceipt.model_validate(job.validation_receipt)
    return await parts.evaluator.evaluate(
        Comparison(
            project_id=job.project_id,
            before=ServedModel(job.model, base, job.parent_adapter_sha256),
            after=ServedModel(job.model_name, base, adapter_sha256),
            held_out=HeldOut(
                uri=parts.storage.uri(storage_key(job.validation_file)),
                method=cast(MethodName, job.method_type),
                max_length=receipt.max_length,
                rows=receipt.rows,
                count=asked.rows,
                seed=job.seed,
            ),
            grader=asked.grader or _own_grader(job),
            max_tokens=_resolved(job, "max_completion_tokens"),
        )
    )


def _own_grader(job: JobRow) -> Grader | None:
    return _GRADER.validate_python(job.hyperparameters["grader"]) if job.method_type == "reinforcement" else None


def _resolved(job: JobRow, name: str) -> int | None:
    value = (job.x_resolved or {}).get(name)
    return None if value is None else int(value["value"])
