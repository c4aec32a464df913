"""A catalogue entry for `MODEL=`, read from the model's own files, in a catalogue of the demo's own."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueEntry, CatalogueError

MAX_CONTEXT_LENGTH = 4096
"""Tokens: enough for most rows, and small enough for a laptop's memory. Edit the entry for more."""

MAX_LORA_RANK = 16
"""What the demo trains with; on a CPU vLLM pays for the limit, used or not: 64 makes prompts 40 times slower."""

ReadJson = Callable[[str], dict[str, Any]]


def add_to_catalogue(model: str, path: Path) -> str:
    """Writes the shipped entries and one for `model`, a folder or a Hugging Face id, to `path`; returns its name.

    Raises CatalogueError.
    """
    shipped = Catalogue.load(DEFAULT_CATALOGUE).models
    entry = _entry(model, taken={entry.name for entry in shipped})
    content = {"models": [each.model_dump(mode="json") for each in (*shipped, entry)]}
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return entry.name


def _entry(model: str, taken: set[str]) -> CatalogueEntry:
    folder = Path(model).expanduser()
    revision = None
    if folder.is_dir():
        source = str(folder.resolve())
        if not any(folder.glob("*.safetensors")):
            raise CatalogueError(f"{folder} holds no .safetensors file; other weight formats are not loaded")
        read_json = _reader_of_folder(folder)
    else:
        source = model
        revision, read_json = _reader_of_hub(model)
    config = read_json("config.json")
    if not config:
        raise CatalogueError(f"{model} has no config.json, so it is not a transformers model")
    text_config = config.get("text_config", config)
    if "hidden_size" not in text_config:
        raise CatalogueError(f"{model}: config.json names no hidden_size; add the model to models.yaml by hand")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", Path(source).name).lstrip("._-") or "own"
    entry = CatalogueEntry(
        name=f"{name}-own" if name in taken else name,
        source=source,
        revision=revision,
        context_length=min(int(text_config.get("max_position_embeddings", MAX_CONTEXT_LENGTH)), MAX_CONTEXT_LENGTH),
        stop_tokens=_stop_tokens(model, config, read_json),
        dtype="float32" if config.get("dtype", config.get("torch_dtype")) == "float32" else "bfloat16",
        max_lora_rank=MAX_LORA_RANK,
        learning_rate=_learning_rate(str(config.get("model_type", "")), int(text_config["hidden_size"])),
    )
    return entry.model_copy(update={"tool_parser": _tool_parser(entry.template)})  # reading it proves it is there


def _reader_of_folder(folder: Path) -> ReadJson:
    def read(filename: str) -> dict[str, Any]:
        path = folder / filename
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    return read


def _reader_of_hub(model: str) -> tuple[str, ReadJson]:
    """The commit that `main` is at now, and a reader of its files."""
    try:
        # the cache lays a file out as …/snapshots/<commit>/<filename>
        revision = Path(hf_hub_download(model, "config.json")).parent.name
    except Exception as error:  # the hub's client raises a dozen unrelated types: HTTP, OS, validation
        raise CatalogueError(f"{model} is no folder here, and Hugging Face does not give it: {error}") from error

    def read(filename: str) -> dict[str, Any]:
        try:
            path = Path(hf_hub_download(model, filename, revision=revision))
        except EntryNotFoundError:
            return {}
        return dict(json.loads(path.read_text(encoding="utf-8")))

    return revision, read


def _stop_tokens(model: str, config: dict[str, Any], read_json: ReadJson) -> tuple[str, ...]:
    """The tokens of `eos_token_id`, chat models often have several; else the tokenizer's `eos_token`."""
    ids = read_json("generation_config.json").get("eos_token_id", config.get("eos_token_id"))
    added = {token["id"]: str(token["content"]) for token in read_json("tokenizer.json").get("added_tokens", [])}
    tokens = tuple(added[each] for each in (ids if isinstance(ids, list) else [ids]) if each in added)
    eos = read_json("tokenizer_config.json").get("eos_token")
    own = eos.get("content") if isinstance(eos, dict) else eos
    # what ends a chat turn is the tokenizer's; the generation config may add the end of the document
    found = tuple(dict.fromkeys((*((own,) if own else ()), *tokens)))
    if not found:
        raise CatalogueError(f"{model} names no end-of-turn token; add it to models.yaml by hand, with `stop_tokens`")
    return found


def _learning_rate(model_type: str, hidden_size: int) -> float:
    """Thinking Machines' rule for LoRA, from their tinker-cookbook."""
    exponent = 0.0775 if model_type.startswith("qwen") else 0.781
    return float(f"{5e-4 * (2000 / hidden_size) ** exponent:.2g}")


def _tool_parser(template: str) -> str | None:
    """vLLM's name for the way in which this template writes tool calls."""
    for mark, parser in (
        ("<tool_call>", "hermes"),
        ("[TOOL_CALLS]", "mistral"),
        ("<|python_tag|>", "llama3_json"),
        ('"parameters": ', "llama3_json"),
    ):
        if mark in template:
            return parser
    return None
