"""The spec that a trainer is started with: everything resolved, from the row and the catalogue."""

from service.database.tables import JobRow
from service.dispatcher.parts import ADAPTERS_PREFIX, Parts, logs_prefix, run_prefix
from service.files.files import storage_key
from service.fine_tuning.hyperparameters import ResolvedHyperparameters, to_lora_spec, to_supervised_spec
from service.object_storage.base import ObjectStorage
from tuning.adapter_manifest import AdapterManifest
from tuning.contract import BaseModelSpec, DataSpec, JobSpec, ProcessesSpec, SelectionSpec, WandbSpec
from tuning.data.receipt import DataReceipt
from tuning.resources import TrainingResources


def job_spec(job: JobRow, parts: Parts, parent: AdapterManifest | None, resources: TrainingResources) -> JobSpec:
    """`parent`: of the adapter that training goes on from.

    Raises CatalogueError when the base model's template cannot be read.
    """
    entry, storage = parts.base_of(job), parts.storage
    resolved = ResolvedHyperparameters.model_validate(job.hyperparameters)
    validation_data = None
    if job.validation_file is not None:
        validation_data = _data_spec(job.validation_file, job.validation_receipt, storage)
    return JobSpec(
        job_id=job.id,
        attempt=job.attempt,
        base_model=BaseModelSpec(
            name=entry.name,
            source=entry.source,
            revision=entry.revision,
            dtype=entry.dtype,
            template_path=entry.chat_template,
            template_sha256=entry.template_sha256,
            stop_tokens=entry.stop_tokens,
        ),
        parent_adapter_sha256=job.parent_adapter_sha256,
        training_data=_data_spec(job.training_file, job.training_receipt, storage),
        validation_data=validation_data,
        method=to_supervised_spec(resolved, entry),
        lora=to_lora_spec(entry, parent),
        selection=SelectionSpec(keep="last", eval_steps=None, early_stopping_patience=None),
        seed=job.seed,
        output_uri=storage.uri(run_prefix(job)),
        adapters_uri=storage.uri(ADAPTERS_PREFIX),
        resume_from=storage.uri(job.resume_from) if job.resume_from else None,
        logs_uri=storage.uri(logs_prefix(job)),
        processes=ProcessesSpec(nodes=resources.nodes, per_node=resources.processes_per_node),
        wandb=tuple(WandbSpec.model_validate(each["wandb"]) for each in job.integrations),
    )


def _data_spec(file_id: str, receipt: dict[str, object] | None, storage: ObjectStorage) -> DataSpec:
    checked = DataReceipt.model_validate(receipt)
    return DataSpec(uri=storage.uri(storage_key(file_id)), receipt_sha256=checked.sha256, rows=checked.trained_rows)
