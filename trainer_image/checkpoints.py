"""An adapter as vLLM and the manifest want it: two files, the same bytes for the same training, named by content."""

import json
from pathlib import Path

import torch
from peft import PeftModel

from trainer_image import artifacts
from trainer_image.adapter_check import check_servable
from tuning.adapter_manifest import ADAPTER_FILES, MANIFEST_NAME, AdapterManifest, describe_file
from tuning.contract import JobSpec


def publish_adapter(model: PeftModel, spec: JobSpec, folder: Path) -> str:
    """Saves to `folder`, checks, uploads with the manifest last; answers the adapter's sha256. Safe to repeat."""
    target_modules = _save(model, spec, folder)
    check_servable(folder, _linear_shapes(model))
    manifest = AdapterManifest(
        base_model=spec.base_model.name,
        base_revision=spec.base_model.revision,
        template_sha256=spec.base_model.template_sha256,
        r=spec.lora.r,
        lora_alpha=spec.lora.lora_alpha,
        use_rslora=spec.lora.use_rslora,
        target_modules=target_modules,
        files=tuple(describe_file(folder / name) for name in ADAPTER_FILES),
    )
    sha256 = manifest.adapter_sha256
    prefix = f"{spec.adapters_uri}/{sha256}"
    if not artifacts.exists(f"{prefix}/{MANIFEST_NAME}"):
        for name in ADAPTER_FILES:
            artifacts.upload_file(folder / name, f"{prefix}/{name}")
        artifacts.write_bytes(f"{prefix}/{MANIFEST_NAME}", manifest.to_json())
    return sha256


def _save(model: PeftModel, spec: JobSpec, folder: Path) -> tuple[str, ...]:
    """Answers the adapted modules' own names, sorted and without their paths."""
    # PEFT looks for a resized vocabulary in the hub's copy of the base unless it is told not to save embeddings.
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text("utf-8"))
    modules = sorted(config["target_modules"])
    # PEFT writes the model's local path, and a set in hash order: neither belongs into bytes that name the adapter.
    config |= {"base_model_name_or_path": spec.base_model.name, "target_modules": modules}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    return tuple(sorted({module.rpartition(".")[2] for module in modules}))


def _linear_shapes(model: PeftModel) -> dict[str, tuple[int, int]]:
    base = model.get_base_model()
    head = base.get_output_embeddings()
    return {
        name.removesuffix(".base_layer"): (module.out_features, module.in_features)
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and ".lora_" not in name and module is not head
    }
