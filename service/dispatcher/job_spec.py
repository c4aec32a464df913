"""The spec that a trainer is started with: everything resolved, from the row and the catalogue."""

from typing import Any

from service.database.tables import JobRow
from service.dispatcher.parts import Parts, logs_prefix, run_prefix
from service.files.files import storage_key
from service.fine_tuning.resolution import AskedTraining, resolve
from service.models.adapters import ADAPTERS_PREFIX
from service.object_storage.base import ObjectStorage
from tuning.adapter_manifest import AdapterManifest
from tuning.contract import (
    BaseModelSpec,
    DataSpec,
    DpoSpec,
    JobSpec,
    KtoSpec,
    LoraSpec,
    OrpoSpec,
    ProcessesSpec,
    ReinforcementSpec,
    SelectionSpec,
    SupervisedSpec,
    WandbSpec,
)
from tuning.data.receipt import DataReceipt
from tuning.resources import TrainingResources

_Spec = SupervisedSpec | DpoSpec | OrpoSpec | KtoSpec | ReinforcementSpec

_SPECS: dict[str, type[_Spec]] = {
    "supervised": SupervisedSpec,
    "dpo": DpoSpec,
    "orpo": OrpoSpec,
    "kto": KtoSpec,
    "reinforcement": ReinforcementSpec,
}
_CHECKPOINTING = {"auto": "auto", True: "on", False: "off"}


def job_spec(job: JobRow, parts: Parts, parent: AdapterManifest | None, resources: TrainingResources) -> JobSpec:
    """`parent`: of the adapter that training goes on from.

    Raises CatalogueError when the base model's template cannot be read.
    """
    entry, storage = parts.base_of(job), parts.storage
    values = _values(job, parts, parent)
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
            dtype=values["precision"],
            template_path=entry.chat_template,
            template_sha256=entry.template_sha256,
            stop_tokens=entry.stop_tokens,
        ),
        parent_adapter_sha256=job.parent_adapter_sha256,
        training_data=_data_spec(job.training_file, job.training_receipt, storage),
        validation_data=validation_data,
        method=_method_spec(job, values),
        lora=_lora_spec(values),
        selection=SelectionSpec(
            keep=values["keep"],
            eval_steps=values["eval_steps"],
            early_stopping_patience=values["early_stopping_patience"],
        ),
        seed=job.seed,
        output_uri=storage.uri(run_prefix(job)),
        adapters_uri=storage.uri(ADAPTERS_PREFIX),
        resume_from=storage.uri(job.resume_from) if job.resume_from else None,
        logs_uri=storage.uri(logs_prefix(job)),
        processes=ProcessesSpec(nodes=resources.nodes, per_node=resources.processes_per_node),
        wandb=tuple(WandbSpec.model_validate(each["wandb"]) for each in job.integrations),
    )


def _values(job: JobRow, parts: Parts, parent: AdapterManifest | None) -> dict[str, Any]:
    """What validation has decided. A job that the release before validated has nothing but OpenAI's numbers."""
    if job.x_resolved is not None:
        return {name: resolved["value"] for name, resolved in job.x_resolved.items()}
    rows = DataReceipt.model_validate(job.training_receipt).trained_rows
    asked, has_validation = AskedTraining.from_row(job), job.validation_file is not None
    resolved = resolve(asked, parts.base_of(job), parent, rows=rows, has_validation=has_validation)
    return {name: each.value for name, each in resolved.values.items()}


def _method_spec(job: JobRow, values: dict[str, Any]) -> _Spec:
    """The fields of a method's spec have the names of the values, but for the two below."""
    fields = values | {
        "type": job.method_type,
        "gradient_checkpointing": _CHECKPOINTING[values["gradient_checkpointing"]],
    }
    if job.method_type == "reinforcement":
        fields |= {"beta": values["kl_beta"], "grader": job.hyperparameters["grader"]}
    spec = _SPECS[job.method_type]
    return spec.model_validate({name: value for name, value in fields.items() if name in spec.model_fields})


def _lora_spec(values: dict[str, Any]) -> LoraSpec:
    targets = values["target_modules"]
    return LoraSpec(
        r=values["r"],
        lora_alpha=values["lora_alpha"],
        lora_dropout=values["lora_dropout"],
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        use_rslora=values["use_rslora"],
        init=values.get("init_lora_weights", "default"),
        quantization="nf4" if values["adaptation"] == "qlora" else "none",
    )


def _data_spec(file_id: str, receipt: dict[str, object] | None, storage: ObjectStorage) -> DataSpec:
    checked = DataReceipt.model_validate(receipt)
    return DataSpec(uri=storage.uri(storage_key(file_id)), receipt_sha256=checked.sha256, rows=checked.trained_rows)
