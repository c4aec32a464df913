"""The catalogue: what it takes, what it refuses, and that the templates we ship are the models' own."""

from pathlib import Path
from typing import Any

import pytest
import trl
import yaml

from tests.fixtures.chat_tokenizers import LAMP_TOOL, assistant, system, tool_call, tool_result, user
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueError
from tuning.data.chat_template import ChatTemplate

STOCK_QWEN3 = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
OUR_QWEN3 = DEFAULT_CATALOGUE.parent / "base_models" / "qwen3.jinja"

ENTRY: dict[str, Any] = {
    "name": "mine",
    "source": "./model",
    "context_length": 512,
    "stop_tokens": ["</s>"],
    "learning_rate": 1e-4,
}


def load(folder: Path, *entries: dict[str, Any]) -> Catalogue:
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": list(entries)}))
    return Catalogue.load(path)


def test_paths_are_relative_to_the_file_and_hub_ids_stay(tmp_path: Path) -> None:
    catalogue = load(tmp_path, ENTRY, ENTRY | {"name": "hub", "source": "org/model"})
    local, hub = catalogue.models
    assert (local.source, local.is_local) == (str(tmp_path / "model"), True)
    assert (hub.source, hub.is_local) == ("org/model", False)


@pytest.mark.parametrize(
    ("change", "mentions"),
    [
        ({"name": "ft:x"}, "name"),
        ({"name": "../x"}, "name"),
        ({"context_length": 1}, "context_length"),
        ({"stop_tokens": []}, "stop_tokens"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"max_lora_rank": 17}, "max_lora_rank"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_entry_is_refused_with_its_field(tmp_path: Path, change: dict[str, Any], mentions: str) -> None:
    with pytest.raises(CatalogueError, match=mentions):
        load(tmp_path, ENTRY | change)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="mine more than once"):
        load(tmp_path, ENTRY, ENTRY)


@pytest.mark.parametrize("content", ["", "[]", "models: 7", "models: [7]", "{", "!!python/object:os.system {}"])
def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(content)
    with pytest.raises(CatalogueError, match=r"models\.yaml"):
        Catalogue.load(path)


def test_a_model_without_its_files_or_template_says_so(tmp_path: Path) -> None:
    entry = load(tmp_path, ENTRY).models[0]
    with pytest.raises(CatalogueError, match=r"tokenizer\.json does not exist"):
        _ = entry.tokenizer_path
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer_config.json").write_text("{}")
    with pytest.raises(CatalogueError, match="has no chat template"):
        _ = entry.template


def test_the_shipped_catalogue_is_sound() -> None:
    catalogue = Catalogue.load(DEFAULT_CATALOGUE)
    tiny = catalogue.get("fettle-tiny")
    assert tiny is not None
    assert "generation" in tiny.template
    assert {"qwen3-0.6b", "smollm2-135m-instruct", "phi-3-mini-4k-instruct"} <= {
        model.name for model in catalogue.models
    }


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "single": [user("Turn on the lamp")],
    "system": [system("Be brief."), user("Hi")],
    "history": [user("Hi"), assistant("Hello"), user("And?")],
}


@pytest.mark.parametrize("tools", [None, [LAMP_TOOL]])
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_our_qwen3_template_writes_prompts_as_the_stock_one_without_thinking(
    conversation: str, tools: list[dict[str, Any]] | None
) -> None:
    given = {"messages": CONVERSATIONS[conversation], "tools": tools, "add_generation_prompt": True}
    stock, _ = ChatTemplate(STOCK_QWEN3.read_text()).render(**given, enable_thinking=False)
    ours, _ = ChatTemplate(OUR_QWEN3.read_text()).render(**given)
    # the one difference: an earlier answer keeps its empty thought, so that the beginning never changes
    assert ours.replace("<think>\n\n</think>\n\nHello", "Hello") == stock


def test_our_qwen3_template_writes_tool_calls_and_results_as_the_stock_one() -> None:
    call = assistant(tool_calls=[tool_call()])
    messages = [user("Turn on the lamp"), call, tool_result("done"), assistant("It is on.")]
    given = {"messages": messages, "tools": [LAMP_TOOL]}
    stock, _ = ChatTemplate(STOCK_QWEN3.read_text()).render(**given)
    ours, spans = ChatTemplate(OUR_QWEN3.read_text()).render(**given)
    thought = "<think>\n\n</think>\n\n"
    assert ours.replace(thought, "") == stock.replace(thought, "")
    assert [ours[start:end].endswith("<|im_end|>") for start, end in spans] == [True, True]
