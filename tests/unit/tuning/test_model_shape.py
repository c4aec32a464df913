"""A base model's shape from headers alone is what torch and PEFT count on the loaded model."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.fixtures.hugging_face_hub import HUB_MODEL, running_hub
from tests.fixtures.tiny_model import tiny_entry
from tuning.catalogue import CatalogueError
from tuning.model_shape import read_shape

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "qwen3": {"tie_word_embeddings": False, "head_dim": 24},
    "phi3": {"tie_word_embeddings": False, "pad_token_id": 0},
}
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def on_meta(family: str) -> PreTrainedModel:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **FAMILIES[family]))


def save(family: str, folder: Path, **options: Any) -> Path:
    config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, **options)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shard", ["1GB", "50kB"])
def test_parameters_are_those_of_the_model_on_the_meta_device(family: str, shard: str, tmp_path: Path) -> None:
    shape = read_shape(tiny_entry(save(family, tmp_path, max_shard_size=shard)))
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "50kB")
    assert shape.parameters == on_meta(family).num_parameters()
    assert (shape.layers, shape.hidden_size, shape.vocabulary) == (3, 64, 300)
    assert shape.has_fused_attention == (family == "phi3")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["all-linear", ("o_proj",), ("down_proj", "o_proj"), ("nothing",)])
def test_an_adapters_parameters_are_those_that_peft_makes(
    family: str, targets: str | tuple[str, ...], tmp_path: Path
) -> None:
    shape = read_shape(tiny_entry(save(family, tmp_path)))
    if targets == ("nothing",):
        assert shape.lora_parameters(8, targets) == 0
        return
    modules = targets if isinstance(targets, str) else list(targets)
    tuned = get_peft_model(on_meta(family), LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=modules))
    trainable, _ = tuned.get_nb_trainable_parameters()
    assert shape.lora_parameters(8, targets) == trainable


def test_a_tied_head_that_is_stored_all_the_same_counts_once(tmp_path: Path) -> None:
    path = save("llama", tmp_path) / "model.safetensors"
    parameters = read_shape(tiny_entry(tmp_path)).parameters
    read_again = tmp_path / "with_head"
    read_again.mkdir()
    (read_again / "config.json").write_bytes((tmp_path / "config.json").read_bytes())
    tensors = load_file(path)
    head = {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(tensors | head, read_again / "model.safetensors")
    assert read_shape(tiny_entry(read_again)).parameters == parameters


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 16),
        ("model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{]"),
        ("config.json", b"{}"),
        ("config.json", b"not JSON"),
    ],
)
def test_damaged_files_are_told_as_the_catalogues_fault(tmp_path: Path, name: str, content: bytes) -> None:
    (save("llama", tmp_path) / name).write_bytes(content)
    with pytest.raises(CatalogueError, match=r"model tiny: the shape of .* cannot be read"):
        read_shape(tiny_entry(tmp_path))


def test_of_a_model_of_the_hub_only_the_headers_are_fetched(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its settings once."""
    with running_hub() as hub:
        hub.add(HUB_MODEL, save("llama", tmp_path / "model"))
        source = (
            "from tests.fixtures.tiny_model import tiny_entry; from pathlib import Path\n"
            "from tuning.model_shape import read_shape\n"
            f"entry = tiny_entry(Path('x')).model_copy(update={{'source': '{HUB_MODEL}'}})\n"
            "print(read_shape(entry).parameters)"
        )
        environment = os.environ | hub.environment(tmp_path / "home")
        done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(on_meta("llama").num_parameters()), done.stderr
    assert not list((tmp_path / "home").rglob("*.safetensors"))
