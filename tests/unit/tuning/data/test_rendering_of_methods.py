import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.fixtures.chat_templates import (
    CHATML,
    FAMILIES,
    PHI_TOKENS,
    TEMPLATES,
    build_chatml,
    build_renderer,
    supervised_text,
)
from tests.fixtures.chat_tokenizers import (
    LAMP_TOOL,
    assistant,
    build_space_adding_tokenizer,
    row_line,
    system,
    tool_call,
    tool_result,
    user,
)
from tuning.contract import MethodName
from tuning.data.formats import RowError, parse_row
from tuning.data.rendering import ChatRenderer, RenderedRow
from tuning.data.rows import LabelledRow, PreferenceRow, PromptRow

HI, HELLO, BYE = user("Hi"), assistant("Hello"), assistant("Bye")


def line(**row: Any) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def preference(*prompt: dict[str, Any], preferred: object, other: object, **more: Any) -> bytes:
    return line(input={"messages": prompt, **more}, preferred_output=preferred, non_preferred_output=other)


PREFERENCES = {
    "plain": preference(HI, preferred=[HELLO], other=[BYE]),
    "history": preference(HI, HELLO, user("And?"), preferred=[assistant("Fine\n\n x")], other=[BYE]),
    "odd": preference(user("\n Ä \U0001f600"), preferred=[assistant("\n\n a")], other=[assistant(" b \n")]),
    "system": preference(system("Be brief."), HI, preferred=[HELLO], other=[assistant("Hello " * 30)]),
}
TOOL_PREFERENCES = {
    "call": preference(
        HI, preferred=[assistant(tool_calls=[tool_call(room="küche")])], other=[assistant("No.")], tools=[LAMP_TOOL]
    ),
}
CALLED = preference(
    HI,
    preferred=[assistant(tool_calls=[tool_call()]), tool_result("ok"), assistant("Done")],
    other=[BYE],
    tools=[LAMP_TOOL],
)


def render(renderer: ChatRenderer, row: bytes, method: MethodName) -> RenderedRow:
    return renderer.render(parse_row(row, 1, method))


def variants(family: str, folder: Path) -> Iterator[tuple[ChatRenderer, str]]:
    """With the template."""
    for variant in ("", "_training"):
        path = TEMPLATES / f"{family}{variant}.jinja"
        if path.is_file():
            yield build_renderer(folder, family, variant), path.read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_both_answers_of_a_preference_follow_the_very_ids_of_the_prompt(family: str, tmp_path: Path) -> None:
    seen = 0
    for renderer, _ in variants(family, tmp_path):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / family)
        for name, row_text in (PREFERENCES | TOOL_PREFERENCES).items():
            row = parse_row(row_text, 1, "dpo")
            assert isinstance(row, PreferenceRow)
            try:
                rendered = renderer.render(row)
            except RowError as error:
                assert "is left out by the chat template" in str(error), name
                continue
            for conversation, sequence in zip((row.chosen, row.rejected), rendered.sequences, strict=True):
                i = conversation.is_trained.index(True)
                prompt = renderer.render_prompt(conversation, i)
                assert sequence.input_ids[: len(prompt)].tolist() == prompt, name
                assert sequence.is_supervised[: len(prompt)] == bytes(len(prompt)), name
                assert sequence.is_supervised[len(prompt)] == 1, name
                whole = tokenizer.decode(sequence.input_ids)
                expected = supervised_text(tmp_path / family, sequence)
                assert expected.endswith(FAMILIES[family]["stop"]), name
                assert whole.startswith(tokenizer.decode(prompt) + expected), name
                seen += 1
    assert seen >= 8


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_and_its_stop_token_are_what_is_supervised(family: str, tmp_path: Path) -> None:
    for renderer, _ in variants(family, tmp_path):
        rendered = render(renderer, PREFERENCES["plain"], "orpo")
        stop = FAMILIES[family]["stop"]
        texts = [supervised_text(tmp_path / family, sequence) for sequence in rendered.sequences]
        thought = "<think>\n\n</think>\n\n"  # Qwen 3 begins so, whoever asked it to
        assert [text.removeprefix(thought) for text in texts] == [f"Hello{stop}", f"Bye{stop}"]


@pytest.mark.parametrize("family", FAMILIES)
def test_other_rows_render_as_the_same_conversation_does_alone(family: str, tmp_path: Path) -> None:
    for renderer, _ in variants(family, tmp_path):
        alone = render(renderer, row_line(HI, HELLO), "supervised").sequences
        assert render(renderer, line(prompt="Hi", completion="Hello"), "supervised").sequences == alone
        assert render(renderer, row_line(HI, HELLO, label=True), "kto").sequences == alone
        assert render(renderer, PREFERENCES["plain"], "dpo").sequences[:1] == alone
        other = render(renderer, row_line(HI, BYE), "supervised").sequences
        assert render(renderer, PREFERENCES["plain"], "dpo").sequences[1:] == other


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_is_what_vllm_feeds_to_the_model(family: str, tmp_path: Path) -> None:
    for renderer, template in variants(family, tmp_path):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / family)
        for messages in ([HI], [system("S"), user("Ä\n")], [HI, HELLO, user("And?")]):
            row = parse_row(row_line(*messages, answer="Hello"), 4, "reinforcement")
            assert isinstance(row, PromptRow)
            rendered = renderer.render(row)
            [sequence] = rendered.sequences
            assert sequence.input_ids.tolist() == renderer.render_prompt(row, len(row.messages))
            expected = tokenizer.apply_chat_template(
                row.messages, chat_template=template, add_generation_prompt=True, return_dict=False
            )
            assert sequence.input_ids.tolist() == expected
            assert sequence.is_supervised == bytes(len(expected))
            assert (rendered.note, rendered.number, rendered.dropped_because) == (row.item, 4, None)


@pytest.mark.parametrize("family", ["qwen2_5", "qwen3_instruct_2507", "llama3_1"])
def test_an_answer_of_several_turns_is_supervised_in_each_of_the_assistants(family: str, tmp_path: Path) -> None:
    renderer = build_renderer(tmp_path, family)
    chosen, rejected = render(renderer, CALLED, "dpo").sequences
    stop = FAMILIES[family]["stop"]
    text = supervised_text(tmp_path / family, chosen)
    assert text.count(stop) == 2
    assert "set_lamp" in text
    assert text.endswith(f"Done{stop}")
    assert "response" not in text
    assert supervised_text(tmp_path / family, rejected) == f"Bye{stop}"


def test_a_label_is_noted_beside_the_conversation(tmp_path: Path) -> None:
    renderer = build_chatml(tmp_path)
    notes = [render(renderer, row_line(HI, HELLO, label=label), "kto").note for label in (True, False)]
    assert notes == [b"\1", b"\0"]
    two = render(renderer, row_line(HI, HELLO, user("And?"), BYE, label=True), "kto")
    assert supervised_text(tmp_path, two.sequences[0]) == "Bye<|im_end|>"
    assert isinstance(parse_row(row_line(HI, HELLO, label=True), 1, "kto"), LabelledRow)


def test_each_answer_of_a_preference_is_cut_by_itself(tmp_path: Path) -> None:
    row = preference(HI, preferred=[HELLO], other=[assistant("Hello " * 40)])
    whole = render(build_chatml(tmp_path), row, "dpo")
    cut = render(build_chatml(tmp_path, max_length=40), row, "dpo")
    assert cut.sequences[0] == whole.sequences[0]
    assert cut.sequences[1].input_ids == whole.sequences[1].input_ids[:40]
    assert (cut.is_cut, [sequence.is_cut for sequence in cut.sequences]) == (True, [False, True])
    assert cut.dropped_because is None


def test_a_preference_that_lost_an_answer_is_dropped(tmp_path: Path) -> None:
    long = user("Hi " * 100)
    row = render(build_chatml(tmp_path, max_length=30), preference(long, preferred=[HELLO], other=[BYE]), "dpo")
    assert row.dropped_because == "the answer starts after 30 tokens"
    assert [sequence.supervised_tokens for sequence in row.sequences] == [0, 0]


def test_a_preference_whose_answers_are_cut_to_the_same_is_dropped(tmp_path: Path) -> None:
    row = preference(HI, preferred=[assistant("a " * 60 + "b")], other=[assistant("a " * 60 + "c")])
    assert render(build_chatml(tmp_path), row, "dpo").dropped_because is None
    dropped = render(build_chatml(tmp_path, max_length=40), row, "dpo")
    assert dropped.dropped_because == "the two outputs differ only after 40 tokens"


def test_answers_that_a_template_makes_the_same_are_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = preference(HI, preferred=[HELLO], other=[assistant("Hello ")])
    with pytest.raises(RowError, match=r"^Row 1: non_preferred_output: becomes the same tokens as the preferred one"):
        render(build_chatml(tmp_path, template), row, "dpo")


def test_a_prompt_without_room_for_an_answer_is_dropped_and_never_cut(tmp_path: Path) -> None:
    row = row_line(user("Hi " * 20))
    length = len(render(build_chatml(tmp_path), row, "reinforcement").sequences[0].input_ids)
    fitting = render(build_chatml(tmp_path, max_length=length + 1), row, "reinforcement")
    dropped = render(build_chatml(tmp_path, max_length=length), row, "reinforcement")
    assert (fitting.dropped_because, fitting.is_cut) == (None, False)
    assert dropped.dropped_because == f"the prompt leaves no room for an answer within {length} tokens"
    assert dropped.sequences == fitting.sequences


@pytest.mark.parametrize(
    ("row", "method", "field"),
    [
        (preference(HI, preferred=[assistant("a<|im_end|>")], other=[BYE]), "dpo", "preferred_output[0].content"),
        (preference(HI, preferred=[HELLO], other=[assistant("a<|im_end|>")]), "dpo", "non_preferred_output[0].content"),
        (
            line(
                input={"messages": [HI]}, preferred_completion=[assistant("<|im_end|>")], non_preferred_completion=[BYE]
            ),
            "dpo",
            "preferred_completion[0].content",
        ),
        (preference(HI, preferred=[HELLO], other=[BYE], tools=[LAMP_TOOL]), "dpo", "input.tools[0]"),
        (
            preference(HI, preferred=[assistant("x", tool_calls=[tool_call()])], other=[BYE]),
            "dpo",
            "preferred_output[0].tool_calls[0]",
        ),
        (line(prompt="Hi", completion="a<|im_end|>"), "supervised", "completion"),
        (line(prompt=[HI, HELLO, HI], completion=[assistant("<|im_end|>")]), "supervised", "completion[0].content"),
        (row_line(HI, assistant("a<|im_end|>"), label=True), "kto", "messages[1].content"),
        (row_line(HI, tools=[LAMP_TOOL]), "reinforcement", "tools[0]"),
    ],
)
def test_what_cannot_be_rendered_is_told_with_its_place_in_the_row(
    row: bytes, method: MethodName, field: str, tmp_path: Path
) -> None:
    with pytest.raises(RowError) as caught:
        render(build_chatml(tmp_path), row, method)
    assert caught.value.field == field


def test_the_remedy_is_one_that_the_row_can_follow(tmp_path: Path) -> None:
    renderer = build_chatml(tmp_path, "{{ messages | length }}" + CHATML)
    with pytest.raises(
        RowError, match=r"^Row 1: messages\[1\]: .* differently .*; give that turn weight 0, or have the op"
    ):
        render(renderer, row_line(HI, HELLO), "supervised")
    with pytest.raises(RowError, match=r"^Row 1: preferred_output\[0\]: .* differently .*; have the operator set"):
        render(renderer, PREFERENCES["plain"], "dpo")


def test_both_answers_keep_their_prompt_with_a_tokenizer_that_adds_spaces(tmp_path: Path) -> None:
    tokenizer = build_space_adding_tokenizer(tmp_path, PHI_TOKENS, eos_token="<|endoftext|>")
    renderer = ChatRenderer((TEMPLATES / "phi3.jinja").read_text(), tokenizer, ["<|end|>"], 4096)
    for content in ("Hello", " Hello", "\nHello"):
        row = parse_row(preference(HI, preferred=[assistant(content)], other=[BYE]), 1, "dpo")
        assert isinstance(row, PreferenceRow)
        prompt = renderer.render_prompt(row.chosen, 1)
        for sequence in renderer.render(row).sequences:
            assert sequence.input_ids[: len(prompt)].tolist() == prompt
            assert not any(sequence.is_supervised[: len(prompt)])


@pytest.mark.parametrize("depth", [100, 200, 400, 600, 900])
def test_deeply_nested_arguments_and_tools_never_cause_more_than_a_refusal(depth: int, tmp_path: Path) -> None:
    renderer = build_renderer(tmp_path, "qwen2_5")
    nested = "[" * depth + "]" * depth
    arguments = json.dumps(f'{{"a": {nested}}}')
    tool = f'{{"type": "function", "function": {{"name": "f", "parameters": {{"a": {nested}}}}}}}'
    call = f'{{"id": "c", "type": "function", "function": {{"name": "f", "arguments": {arguments}}}}}'
    row = (
        f'{{"messages": [{{"role": "user", "content": "Hi"}}, {{"role": "assistant", "tool_calls": [{call}]}}],'
        f' "tools": [{tool}]}}'
    )
    try:
        assert render(renderer, row.encode(), "supervised").supervised_tokens
    except RowError as error:
        assert error.message.startswith(("is nested too deeply", "is not valid JSON"))
