from itertools import accumulate
from pathlib import Path

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
    build_tokenizer,
    row_line,
    system,
    tool_call,
    tool_result,
    user,
)
from tuning.data.formats import RowError, parse_row
from tuning.data.rendering import ChatRenderer, RenderedRow, RenderingError

PLAIN_ROWS = {
    "single": row_line(user("Turn on the lamp"), assistant("The lamp is on.\n\nAnything else?")),
    "system": row_line(system("Be brief. “Ä” <b>"), user("Hi"), assistant("Hello")),
    "parts": row_line(user([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]), assistant("c")),
    "weights": row_line(user("Hi"), assistant("Hello", weight=0), user("And?"), assistant("Fine")),
    "odd": row_line(user("\n\n  \U0001f600\u200b\ttabs\r\n"), assistant("\n\n  leading and trailing \n")),
}
LONG_ROWS = {
    "turns": row_line(user("Hi"), assistant("Hello"), user("And?"), assistant("Fine"), user("Bye"), assistant("Bye.")),
}
TOOL_ROWS = {
    "call": row_line(user("Lamp"), assistant(tool_calls=[tool_call(room="küche", on=True)]), tools=[LAMP_TOOL]),
}
CALLS_AND_RESULTS = {
    "result": row_line(
        user("Lamp"),
        assistant(tool_calls=[tool_call(room="bath")]),
        tool_result('{"ok": true}'),
        assistant("Done"),
        tools=[LAMP_TOOL],
    ),
}


def render(renderer: ChatRenderer, line: bytes) -> RenderedRow:
    return renderer.render(parse_row(line, 1))


def supervised(folder: Path, row: RenderedRow) -> str:
    [sequence] = row.sequences
    return supervised_text(folder, sequence)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "rows", [PLAIN_ROWS, LONG_ROWS, TOOL_ROWS, CALLS_AND_RESULTS], ids=lambda rows: next(iter(rows))
)
def test_text_is_what_transformers_renders(family: str, rows: dict[str, bytes], tmp_path: Path) -> None:
    for variant in ("", "_training"):
        path = TEMPLATES / f"{family}{variant}.jinja"
        if not path.is_file():
            continue
        renderer = build_renderer(tmp_path, family, variant)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / family)
        for name, line in rows.items():
            row = parse_row(line, 1)
            try:
                rendered = renderer.render(row)
            except RowError as error:
                assert "the chat template of this base model" in str(error)
                continue
            text = tokenizer.apply_chat_template(
                row.messages, tools=row.tools, chat_template=path.read_text(), tokenize=False
            )
            assert tokenizer.decode(rendered.sequences[0].input_ids) == text, name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_turn_follows_the_very_ids_of_its_prompt(family: str, tmp_path: Path) -> None:
    renderer = build_renderer(tmp_path, family)
    path = TEMPLATES / f"{family}.jinja"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / family)
    for line in (PLAIN_ROWS["single"], PLAIN_ROWS["system"], PLAIN_ROWS["weights"], PLAIN_ROWS["odd"]):
        row = parse_row(line, 1)
        rendered = renderer.render(row)
        i = row.is_trained.index(True)
        prompt = tokenizer.apply_chat_template(
            row.messages[:i], chat_template=path.read_text(), add_generation_prompt=True, return_dict=False
        )
        assert rendered.sequences[0].input_ids[: len(prompt)].tolist() == prompt == renderer.render_prompt(row, i)
        assert rendered.sequences[0].is_supervised[: len(prompt)] == bytes(len(prompt))
        assert rendered.sequences[0].is_supervised[len(prompt)] == 1


# What TRL's training variants count in beside the turn: Qwen 2.5's the line break that the prompt ends with; that and
# others' the white space after the stop token; Phi's the token that ends the text. None is what the model has to say.
@pytest.mark.parametrize("family", ["qwen2_5", "qwen3_instruct_2507", "llama3", "phi3", "phi3_5", "gemma3", "lfm2_v2"])
def test_turns_are_the_ones_that_trl_marks_in_the_same_template(family: str, tmp_path: Path) -> None:
    stock, marked = build_renderer(tmp_path, family), build_renderer(tmp_path, family, "_training")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / family)
    template = (TEMPLATES / f"{family}_training.jinja").read_text()
    for line in (PLAIN_ROWS["single"], PLAIN_ROWS["system"], PLAIN_ROWS["parts"], LONG_ROWS["turns"]):
        row = parse_row(line, 1)
        rendered = stock.render(row)
        assert rendered == marked.render(row)
        encoding = tokenizer.apply_chat_template(
            row.messages, chat_template=template, return_assistant_tokens_mask=True, return_dict=True
        )
        ends = list(accumulate(encoding["assistant_masks"], lambda run, mask: (run + mask) * mask))
        turns = [
            tokenizer.decode(encoding["input_ids"][i - length + 1 : i + 1])
            for i, length in enumerate(ends)
            if length and (i + 1 == len(ends) or not ends[i + 1])
        ]
        eos = tokenizer.eos_token or "\0"
        assert supervised(tmp_path / family, rendered) == "|".join(turn.removesuffix(eos).strip() for turn in turns)


def test_weight_0_turns_are_not_trained_on(tmp_path: Path) -> None:
    rendered = render(build_chatml(tmp_path), PLAIN_ROWS["weights"])
    assert supervised(tmp_path, rendered) == "Fine<|im_end|>"


def test_tool_calls_are_trained_on_with_their_stop_token(tmp_path: Path) -> None:
    renderer = build_renderer(tmp_path, "qwen2_5")
    call = '<tool_call>\n{"name": "set_lamp", "arguments": {"room": "bath"}}\n</tool_call><|im_end|>'
    text = supervised(tmp_path / "qwen2_5", render(renderer, CALLS_AND_RESULTS["result"]))
    assert text == f"{call}|Done<|im_end|>"


def test_what_follows_the_last_trained_turn_is_left_off(tmp_path: Path) -> None:
    renderer = build_chatml(tmp_path)
    messages = user("Hi"), assistant("Hello")
    untrained = user("Thanks"), assistant("Welcome", weight=0)
    assert render(renderer, row_line(*messages, *untrained)) == render(renderer, row_line(*messages))


def test_a_template_that_rewrites_earlier_turns_is_refused_with_a_way_out(tmp_path: Path) -> None:
    renderer = build_renderer(tmp_path, "qwen3")
    with pytest.raises(RowError, match=r"^Row 1: messages\[1\]: .* differently .* weight 0, or have the operator set"):
        render(renderer, LONG_ROWS["turns"])
    assert "Fine<|im_end|>" in supervised(tmp_path / "qwen3", render(renderer, PLAIN_ROWS["weights"]))


def test_the_training_variant_of_that_template_takes_all_turns(tmp_path: Path) -> None:
    rendered = render(build_renderer(tmp_path, "qwen3", "_training"), LONG_ROWS["turns"])
    thought = "<think>\n\n</think>\n\n"
    expected = "|".join(f"{thought}{text}<|im_end|>" for text in ("Hello", "Fine", "Bye."))
    assert supervised(tmp_path / "qwen3", rendered) == expected


@pytest.mark.parametrize(
    ("family", "line", "field"),
    [
        ("llama3", TOOL_ROWS["call"], "tools[0]"),
        ("llama3", row_line(user("Hi"), assistant(tool_calls=[tool_call()])), "messages[1].tool_calls[0]"),
        ("phi3", row_line({"role": "developer", "content": "D"}, user("H"), assistant("A")), None),
        (
            "phi3",
            row_line(user("H"), assistant("x", tool_calls=[tool_call()]), tool_result("ok"), assistant("y")),
            "messages[1].tool_calls[0]",
        ),
    ],
)
def test_what_a_template_would_leave_out_is_refused(
    family: str, line: bytes, field: str | None, tmp_path: Path
) -> None:
    renderer = build_renderer(tmp_path, family)
    if field is None:  # a developer turn becomes a system turn, which this template knows
        assert render(renderer, line).supervised_tokens
        return
    with pytest.raises(RowError, match="is left out by the chat template") as caught:
        render(renderer, line)
    assert caught.value.field == field


def test_a_template_that_wants_parts_instead_of_text_is_refused(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>"
        "{% endfor %}"
    )
    with pytest.raises(RowError, match=r"messages\[0\].content: is left out"):
        render(build_chatml(tmp_path, template), PLAIN_ROWS["single"])


def test_the_templates_own_objection_reaches_the_user(tmp_path: Path) -> None:
    renderer = build_renderer(tmp_path, "gemma3")
    with pytest.raises(RowError, match="refuses the conversation: Conversation roles must alternate"):
        render(renderer, row_line(user("a"), user("b"), assistant("c")))


def test_an_answer_that_holds_the_stop_token_is_refused(tmp_path: Path) -> None:
    renderer = build_chatml(tmp_path)
    with pytest.raises(RowError, match=r"messages\[1\].content: contains '<\|im_end\|>', which ends"):
        render(renderer, row_line(user("a"), assistant("b<|im_end|>c")))
    assert supervised(tmp_path, render(renderer, row_line(user("a<|im_end|>"), assistant("b")))) == "b<|im_end|>"


def test_a_first_turn_of_the_assistant_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"messages\[0\].role: .* must answer something"):
        render(build_chatml(tmp_path), row_line(assistant("Hello"), user("Hi"), assistant("Fine")))


def test_long_rows_lose_their_tail(tmp_path: Path) -> None:
    line = row_line(user("Hi"), assistant("Hello " * 40))
    whole = render(build_chatml(tmp_path), line)
    cut = render(build_chatml(tmp_path, max_length=30), line)
    assert cut.is_cut
    assert not whole.is_cut
    assert cut.sequences[0].input_ids == whole.sequences[0].input_ids[:30]
    assert cut.sequences[0].is_supervised == whole.sequences[0].is_supervised[:30]
    assert 0 < cut.supervised_tokens < 30


def test_a_row_whose_answer_lies_beyond_the_limit_has_nothing_supervised(tmp_path: Path) -> None:
    row = render(build_chatml(tmp_path, max_length=30), row_line(user("Hi " * 100), assistant("Hello")))
    assert (row.is_cut, row.supervised_tokens) == (True, 0)


def test_developer_turns_join_the_system_turn_where_the_template_knows_none(tmp_path: Path) -> None:
    renderer = build_chatml(tmp_path)
    row = row_line(system("A"), user("Hi"), {"role": "developer", "content": "B"}, user("Ho"), assistant("Hello"))
    merged = row_line(system("A\n\nB"), user("Hi"), user("Ho"), assistant("Hello"))
    assert render(renderer, row) == render(renderer, merged)


def test_developer_turns_stay_where_the_template_knows_them(tmp_path: Path) -> None:
    template = "{# 'developer' #}" + CHATML
    row = render(
        build_chatml(tmp_path, template), row_line({"role": "developer", "content": "B"}, user("a"), assistant("b"))
    )
    text = PreTrainedTokenizerFast.from_pretrained(tmp_path).decode(row.sequences[0].input_ids)
    assert text.startswith("<|im_start|>developer\nB<|im_end|>")


def test_dates_in_a_template_do_not_change_from_day_to_day(tmp_path: Path) -> None:
    renderer = build_renderer(tmp_path, "llama3_1")
    row = render(renderer, PLAIN_ROWS["single"])
    text = PreTrainedTokenizerFast.from_pretrained(tmp_path / "llama3_1").decode(row.sequences[0].input_ids)
    assert "Today Date: 26 Jul 2024" in text


@pytest.mark.parametrize("content", ["Hello", " Hello", "\nHello", "  Hello\n"])
def test_tokenizers_that_add_a_space_do_not_add_one_inside_a_row(content: str, tmp_path: Path) -> None:
    tokenizer = build_space_adding_tokenizer(tmp_path, PHI_TOKENS, eos_token="<|endoftext|>")
    template = (TEMPLATES / "phi3.jinja").read_text()
    renderer = ChatRenderer(template, tokenizer, ["<|end|>"], 4096)
    row = parse_row(row_line(user("Hi"), assistant(content), user("Ho"), assistant("Yes")), 1)
    rendered = renderer.render(row)
    reference = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    expected = reference.apply_chat_template(row.messages, chat_template=template, return_dict=False)
    assert rendered.sequences[0].input_ids.tolist() == expected
    for i in (1, 3):
        prompt = renderer.render_prompt(row, i)
        assert rendered.sequences[0].input_ids[: len(prompt)].tolist() == prompt


@pytest.mark.parametrize(
    ("template", "stop", "message"),
    [
        ("{% for m in messages %}", "<|im_end|>", "not valid Jinja: line 1"),
        (CHATML, "<|stop|>", "the stop token '<|stop|>' is not one token of the tokenizer, but"),
        (CHATML, "<|im_start|>", "with none of the stop tokens"),
        (CHATML.replace("<|im_end|>", " weather"), "r", "joins the stop tokens"),
    ],
)
def test_a_base_model_whose_parts_do_not_fit_is_refused(template: str, stop: str, message: str, tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    with pytest.raises(RenderingError) as caught:
        render(ChatRenderer(template, tokenizer, [stop], 100), PLAIN_ROWS["single"])
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        ("X{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}", "'X' lies between"),
        ("{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>", "block holds none of"),
    ],
)
def test_a_generation_block_in_the_wrong_place_is_refused(turn: str, message: str, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:{% if m.role == 'assistant' %}"
        + turn
        + "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
    )
    with pytest.raises(RenderingError) as caught:
        render(build_chatml(tmp_path, template), PLAIN_ROWS["single"])
    assert message in str(caught.value)


def test_a_missing_tokenizer_config_is_named(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(RenderingError, match=r"tokenizer_config\.json"):
        ChatRenderer(CHATML, tokenizer, ["<|im_end|>"], 100)
