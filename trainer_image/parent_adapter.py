"""The adapter that training goes on from: fetched by its hash, checked, and laid into the model's fresh LoRA."""

from pathlib import Path

from peft import PeftModel, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file

from trainer_image import artifacts
from trainer_image.errors import TrainingFailed
from tuning.adapter_manifest import MANIFEST_NAME, AdapterManifest
from tuning.contract import ErrorCode, JobSpec

WEIGHTS_NAME = "adapter_model.safetensors"


def load_parent(model: PeftModel, spec: JobSpec, sha256: str, folder: Path) -> None:
    """Raises TrainingFailed when the adapter is missing, damaged or another base model's."""
    weights = _fetch(spec, sha256, folder)
    try:
        load_adapter_weights(model, weights)
    except (ValueError, RuntimeError, SafetensorError) as error:  # torch: other shapes
        raise _unavailable(sha256, f"its weights do not fit the base model {spec.base_model.name}: {error}") from error


def load_adapter_weights(model: PeftModel, path: Path) -> None:
    """Every LoRA weight of the model and no other; raises ValueError. Only tensors are read, never a configuration."""
    loaded = set_peft_model_state_dict(model, load_file(path))
    missing = [name for name in loaded.missing_keys if ".lora_" in name]
    if missing or loaded.unexpected_keys:
        raise ValueError(f"{len(missing)} weights are missing and {len(loaded.unexpected_keys)} are unknown")


def _fetch(spec: JobSpec, sha256: str, folder: Path) -> Path:
    uri, base = f"{spec.adapters_uri}/{sha256}", spec.base_model
    try:
        manifest = AdapterManifest.from_json(artifacts.read_bytes(f"{uri}/{MANIFEST_NAME}"), sha256)
        if (manifest.base_model, manifest.base_revision) != (base.name, base.revision):
            raise _unavailable(
                sha256,
                f"it was trained on {manifest.base_model} at revision {manifest.base_revision}, and the catalogue has "
                f"{base.name} at revision {base.revision}",
            )
        scale, expected = (manifest.r, manifest.lora_alpha, manifest.use_rslora), spec.lora
        if scale != (expected.r, expected.lora_alpha, expected.use_rslora):
            raise _unavailable(
                sha256,
                f"it has r {manifest.r}, alpha {manifest.lora_alpha} and rsLoRA {manifest.use_rslora}, and the job has "
                f"{expected.r}, {expected.lora_alpha} and {expected.use_rslora}",
            )
        file = next(file for file in manifest.files if file.name == WEIGHTS_NAME)
        folder.mkdir()
        artifacts.fetch_file(f"{uri}/{WEIGHTS_NAME}", folder / WEIGHTS_NAME, file)
    except FileNotFoundError as error:
        raise _unavailable(sha256, "it no longer lies in the object storage") from error
    except ValueError as error:
        raise _unavailable(sha256, f"it is damaged: {error}") from error
    return folder / WEIGHTS_NAME


def _unavailable(sha256: str, reason: str) -> TrainingFailed:
    return TrainingFailed(
        ErrorCode.MODEL_UNAVAILABLE,
        f"Training cannot go on from adapter {sha256[:12]}: {reason}. Name a base model or another tuned model.",
        "model",
    )
