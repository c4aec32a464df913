"""The shape of a base model from its `config.json` and the headers of its safetensors files: no weights are read, and
no torch is needed.

    shape = read_shape(entry)
    shape.parameters, shape.lora_parameters(r=16, target_modules="all-linear")
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import HfApi, hf_hub_download

from tuning.catalogue import CatalogueEntry, CatalogueError

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
ALL_LINEAR = "all-linear"

_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit."""
_NOT_LINEAR = frozenset({"embed_tokens", "embed_positions", "word_embeddings", "embed_in", "wte", "wpe"})
"""Modules with a matrix that PEFT takes for no linear layer."""
_HEADS = frozenset({"lm_head", "embed_out", "output"})
"""The output layer, which PEFT leaves out of "all-linear"."""


_FUSED_ATTENTION = ("qkv_proj", "Wqkv", "query_key_value", "c_attn")


@dataclass(frozen=True)
class LinearLayer:
    name: str
    """As PEFT sees it: `model.layers.0.mlp.up_proj`."""
    inputs: int
    outputs: int


@dataclass(frozen=True)
class ModelShape:
    hidden_size: int
    intermediate_size: int
    layers: int
    query_size: int
    """Heads times the size of a head."""
    key_value_size: int
    vocabulary: int
    parameters: int
    """Of the loaded model: a head that is tied to the embeddings counts once."""
    linear_layers: tuple[LinearLayer, ...]
    """Without the output layer."""

    @property
    def has_fused_attention(self) -> bool:
        """Query, key and value are parts of one layer's output, as in Phi3."""
        return any(layer.name.endswith(_FUSED_ATTENTION) for layer in self.linear_layers)

    def targets(self, target_modules: str | tuple[str, ...]) -> Iterator[LinearLayer]:
        """The layers that PEFT puts an adapter on: all, or those whose names end in one that is given."""
        for layer in self.linear_layers:
            if isinstance(target_modules, str):
                if target_modules.lower() == ALL_LINEAR:
                    yield layer
            elif any(layer.name == name or layer.name.endswith(f".{name}") for name in target_modules):
                yield layer

    def lora_parameters(self, r: int, target_modules: str | tuple[str, ...]) -> int:
        return sum(r * (layer.inputs + layer.outputs) for layer in self.targets(target_modules))


def read_shape(entry: CatalogueEntry) -> ModelShape:
    """Blocks on the disk, or on the hub where the model was not fetched yet. Raises CatalogueError."""
    try:
        return _read_shape(entry.source, entry.revision)
    except CatalogueError as error:
        raise CatalogueError(f"model {entry.name}: {error}") from error


@lru_cache(maxsize=64)
def _read_shape(source: str, revision: str | None) -> ModelShape:
    try:
        config, tensors = _local(Path(source)) if Path(source).is_absolute() else _of_hub(source, revision)
        return _shape(config.get("text_config") or config, tensors, is_tied=bool(config.get("tie_word_embeddings")))
    except Exception as error:  # a dozen unrelated types: OS, JSON, missing keys, and all of the hub's client
        raise CatalogueError(f"the shape of {source} cannot be read: {type(error).__name__}: {error}") from error


_Tensors = Mapping[str, tuple[int, ...]]
"""The shapes of all tensors, by name."""


def _shape(config: Mapping[str, Any], tensors: _Tensors, *, is_tied: bool) -> ModelShape:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_size = config.get("head_dim") or hidden // heads
    loaded = {
        name: size
        for name, size in tensors.items()
        if not name.endswith("rotary_emb.inv_freq") and not (is_tied and _owner(name) in _HEADS)
    }
    return ModelShape(
        hidden_size=hidden,
        intermediate_size=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        query_size=heads * head_size,
        key_value_size=(config.get("num_key_value_heads") or heads) * head_size,
        vocabulary=config["vocab_size"],
        parameters=sum(math.prod(size) for size in loaded.values()),
        linear_layers=tuple(
            LinearLayer(name.removesuffix(".weight"), inputs=size[1], outputs=size[0])
            for name, size in loaded.items()
            if name.endswith(".weight") and len(size) == 2 and _owner(name) not in _NOT_LINEAR | _HEADS
        ),
    )


def _owner(tensor: str) -> str:
    """`up_proj` of `model.layers.0.mlp.up_proj.weight`."""
    return tensor.rpartition(".")[0].rpartition(".")[2]


def _local(folder: Path) -> tuple[dict[str, Any], _Tensors]:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    index = folder / INDEX_NAME
    if not index.is_file():
        return config, _header(folder / WEIGHTS_NAME)
    tensors: dict[str, tuple[int, ...]] = {}
    for name in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values())):
        tensors |= _header(folder / name)
    return config, tensors


def _of_hub(repository: str, revision: str | None) -> tuple[dict[str, Any], _Tensors]:
    """Of a model that was not fetched yet only the headers are, some hundred kilobytes."""
    config = Path(hf_hub_download(repository, "config.json", revision=revision))
    try:
        return _local(config.parent)
    except FileNotFoundError:
        metadata = HfApi().get_safetensors_metadata(repository, revision=revision)
    headers = [file.tensors.items() for file in metadata.files_metadata.values()]
    tensors = {name: tuple(tensor.shape) for header in headers for name, tensor in header}
    return json.loads(config.read_text("utf-8")), tensors


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    with path.open("rb") as file:
        return {name: tuple(tensor["shape"]) for name, tensor in _read_header(file, path.name).items()}


def _read_header(file: BinaryIO, name: str) -> dict[str, Any]:
    """https://huggingface.co/docs/safetensors: eight bytes of length, then JSON."""
    size = int.from_bytes(file.read(8), "little")
    if not 0 < size <= _MAX_HEADER_BYTES:
        raise ValueError(f"{name} is no safetensors file")
    header: dict[str, Any] = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return header
