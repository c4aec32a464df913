"""The flags of vLLM that decide whether a tuned model answers as it was trained."""

import json
from pathlib import Path

import pytest

from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueEntry, CatalogueError
from tuning.vllm_arguments import model_arguments, write_model_files


def tiny() -> CatalogueEntry:
    entry = Catalogue.load(DEFAULT_CATALOGUE).get("fettle-tiny")
    assert entry is not None
    return entry


def value_of(arguments: list[str], flag: str) -> str:
    return arguments[arguments.index(flag) + 1]


def test_limits_and_formats_are_those_of_training(tmp_path: Path) -> None:
    entry = tiny().model_copy(update={"context_length": 777, "max_lora_rank": 32, "dtype": "bfloat16"})
    arguments = model_arguments(entry, tmp_path, is_cpu=False)
    assert value_of(arguments, "--max-model-len") == "777"
    assert value_of(arguments, "--max-lora-rank") == "32"
    assert value_of(arguments, "--dtype") == "bfloat16"
    assert value_of(arguments, "--load-format") == "safetensors"
    assert value_of(arguments, "--served-model-name") == "fettle-tiny"
    assert value_of(arguments, "--middleware") == "serving_image.guard.Guard"


def test_a_pinned_revision_pins_the_tokenizer_too(tmp_path: Path) -> None:
    assert "--revision" not in model_arguments(tiny(), tmp_path, is_cpu=False)
    pinned = model_arguments(tiny().model_copy(update={"revision": "abc"}), tmp_path, is_cpu=False)
    assert (value_of(pinned, "--revision"), value_of(pinned, "--tokenizer-revision")) == ("abc", "abc")


@pytest.mark.parametrize("parser", [None, "hermes"])
def test_tools_are_called_only_where_the_model_has_a_parser(tmp_path: Path, parser: str | None) -> None:
    arguments = model_arguments(tiny().model_copy(update={"tool_parser": parser}), tmp_path, is_cpu=False)
    assert ("--enable-auto-tool-choice" in arguments) == (parser is not None)
    assert parser is None or value_of(arguments, "--tool-call-parser") == parser


def test_a_cpu_has_no_graphs_and_room_for_more_adapters(tmp_path: Path) -> None:
    cpu, gpu = (model_arguments(tiny(), tmp_path, is_cpu=is_cpu) for is_cpu in (True, False))
    assert "--enforce-eager" in cpu and "--enforce-eager" not in gpu
    assert int(value_of(cpu, "--max-loras")) > int(value_of(gpu, "--max-loras"))


def test_template_and_stop_tokens_are_written_as_training_used_them(tmp_path: Path) -> None:
    entry = tiny()
    write_model_files(entry, tmp_path)
    arguments = model_arguments(entry, tmp_path, is_cpu=True)
    assert Path(value_of(arguments, "--chat-template")).read_text("utf-8") == entry.template
    config = json.loads((Path(value_of(arguments, "--generation-config")) / "generation_config.json").read_text())
    vocabulary = json.loads(entry.tokenizer_path.read_text("utf-8"))["added_tokens"]
    assert config == {"eos_token_id": [token["id"] for token in vocabulary if token["content"] == "<|im_end|>"]}


def test_a_stop_token_that_the_tokenizer_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="does not know the stop tokens <none>"):
        write_model_files(tiny().model_copy(update={"stop_tokens": ("<none>",)}), tmp_path)
