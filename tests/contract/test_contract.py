"""What service and trainer agree on survives the way between them, and nothing else passes."""

import pytest
from pydantic import TypeAdapter, ValidationError

from tuning.adapter_manifest import ADAPTER_FILES, AdapterFile, AdapterManifest
from tuning.contract import (
    BaseModelSpec,
    CheckpointEvent,
    DataSpec,
    JobSpec,
    LoraSpec,
    MetricsEvent,
    ProcessesSpec,
    SelectionSpec,
    StateSavedEvent,
    StepMetrics,
    SupervisedSpec,
    TrainingEvent,
    WandbSpec,
    event_part_name,
)

SPEC = JobSpec(
    job_id="ftjob-" + "a" * 24,
    attempt=1,
    base_model=BaseModelSpec(
        name="tiny",
        source="/models/tiny",
        revision=None,
        dtype="float32",
        template_path=None,
        template_sha256="0" * 64,
        stop_tokens=("<|im_end|>",),
    ),
    parent_adapter_sha256=None,
    training_data=DataSpec(uri="file:///rows.jsonl", receipt_sha256="1" * 64, rows=10),
    validation_data=None,
    method=SupervisedSpec(
        n_epochs=3,
        batch_size=4,
        learning_rate=2e-4,
        lr_scheduler_type="linear",
        warmup_ratio=0.03,
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=1024,
        packing=True,
    ),
    lora=LoraSpec(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"),
    selection=SelectionSpec(keep="best", eval_steps=None, early_stopping_patience=None),
    seed=7,
    output_uri="file:///jobs/1",
    adapters_uri="file:///adapters",
    resume_from=None,
    logs_uri="file:///logs",
    processes=ProcessesSpec(),
    wandb=(WandbSpec(run_id="0a1b", project="tuning", name="first", entity=None, tags=("a", "b")),),
)

MANIFEST = AdapterManifest(
    base_model="tiny",
    base_revision=None,
    template_sha256="0" * 64,
    r=16,
    lora_alpha=32,
    target_modules=("q_proj", "v_proj"),
    files=tuple(AdapterFile(name=name, bytes=1, sha256="2" * 64) for name in ADAPTER_FILES),
)


def test_a_spec_reads_back_as_it_was_written() -> None:
    assert JobSpec.model_validate_json(SPEC.model_dump_json()) == SPEC


@pytest.mark.parametrize("change", [{"version": 1}, {"n_epochs": 3}, {"seed": "auto"}])
def test_a_spec_of_another_version_or_with_unknown_or_unresolved_values_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        JobSpec.model_validate(SPEC.model_dump() | change)


def test_events_read_back_as_their_own_kind() -> None:
    metrics = StepMetrics(step=1, total_steps=2, train_loss=0.5)
    events: list[TrainingEvent] = [
        MetricsEvent(created_at=1.0, metrics=metrics),
        CheckpointEvent(created_at=2.0, step=1, adapter_sha256="3" * 64, metrics=metrics),
        StateSavedEvent(created_at=3.0, step=1),
    ]
    adapter: TypeAdapter[TrainingEvent] = TypeAdapter(TrainingEvent)
    assert [adapter.validate_json(event.model_dump_json()) for event in events] == events


def test_event_parts_sort_by_their_numbers() -> None:
    assert event_part_name(1) == "events/00000001.jsonl"
    assert event_part_name(9) < event_part_name(10)


def test_a_manifest_is_found_by_its_name_only() -> None:
    assert AdapterManifest.from_json(MANIFEST.to_json(), MANIFEST.adapter_sha256) == MANIFEST
    with pytest.raises(ValueError, match="another hash"):
        AdapterManifest.from_json(MANIFEST.to_json() + b" ", MANIFEST.adapter_sha256)


@pytest.mark.parametrize("name", ["../evil.safetensors", "adapter_model.bin", "/etc/passwd", "sub/file"])
def test_a_manifest_that_names_any_other_file_is_refused(name: str) -> None:
    evil = AdapterFile(name=name, bytes=1, sha256="2" * 64)
    manifest = MANIFEST.model_copy(update={"files": (*MANIFEST.files, evil)})
    with pytest.raises(ValueError, match="only"):
        AdapterManifest.from_json(manifest.to_json(), manifest.adapter_sha256)
