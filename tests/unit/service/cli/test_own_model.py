import json
from pathlib import Path
from typing import Any

import pytest

from service.cli.demo.own_model import add_to_catalogue
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueError

HERMES_TEMPLATE = "{% for message in messages %}{{ message.content }}<tool_call>{% endfor %}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What `save_pretrained` leaves, with two tokens that end a turn, as Qwen has them."""
    folder = tmp_path / "my-llama"
    folder.mkdir()
    write(folder, "config.json", {"model_type": "llama", "hidden_size": 2000, "max_position_embeddings": 131072})
    write(folder, "generation_config.json", {"eos_token_id": [1, 2]})
    write(folder, "tokenizer_config.json", {"eos_token": {"content": "<|im_end|>"}})
    tokens = [{"id": 1, "content": "<|endoftext|>"}, {"id": 2, "content": "<|im_end|>"}]
    write(folder, "tokenizer.json", {"added_tokens": tokens})
    (folder / "chat_template.jinja").write_text(HERMES_TEMPLATE, encoding="utf-8")
    (folder / "model.safetensors").touch()
    return folder


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_a_folder_becomes_an_entry_beside_the_shipped_ones(model: Path, tmp_path: Path) -> None:
    name = add_to_catalogue(str(model), tmp_path / "models.yaml")

    catalogue = Catalogue.load(tmp_path / "models.yaml")
    entry = catalogue.get(name)
    assert entry is not None
    assert (entry.name, entry.source, entry.context_length) == ("my-llama", str(model), 4096)
    assert entry.stop_tokens == ("<|im_end|>", "<|endoftext|>")
    assert entry.tool_parser == "hermes"
    assert entry.learning_rate == pytest.approx(5e-4)
    assert len(catalogue.models) == len(Catalogue.load(DEFAULT_CATALOGUE).models) + 1


def test_a_name_of_the_shipped_catalogue_is_not_taken_twice(model: Path, tmp_path: Path) -> None:
    namesake = model.rename(tmp_path / "fettle-tiny")
    assert add_to_catalogue(str(namesake), tmp_path / "models.yaml") == "fettle-tiny-own"


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "holds no .safetensors file"),
        ("config.json", "has no config.json"),
        ("chat_template.jinja", "chat template"),
    ],
)
def test_what_a_folder_lacks_is_named(model: Path, tmp_path: Path, missing: str, message: str) -> None:
    (model / missing).unlink()
    with pytest.raises(CatalogueError, match=message):
        add_to_catalogue(str(model), tmp_path / "models.yaml")


def test_a_model_without_an_end_of_turn_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "generation_config.json").unlink()
    write(model, "tokenizer_config.json", {})
    with pytest.raises(CatalogueError, match="names no end-of-turn token"):
        add_to_catalogue(str(model), tmp_path / "models.yaml")
