"""Rows that say where the prompt ends and the answer begins: completions, preferences, and answers with a label."""

import json
from typing import Any, NoReturn

from tuning.data.fields import FieldError, expect_object, expect_string, json_type
from tuning.data.messages import TOOL_KEYS, Message, check_messages, check_row_tools
from tuning.data.rows import ChatRow, LabelledRow, Places, PreferenceRow

COMPLETION_KEYS = ("prompt", "completion", *TOOL_KEYS)
_OUTPUT_KEYS = (("preferred_output", "preferred_completion"), ("non_preferred_output", "non_preferred_completion"))
"""Each with its older name."""
PREFERENCE_KEYS = ("input", *(key for keys in _OUTPUT_KEYS for key in keys))


def read_completion(row: dict[str, Any], number: int, keys: tuple[str, ...] = COMPLETION_KEYS) -> ChatRow:
    """Both are strings, or both lists of messages, as TRL has them."""
    expect_object(row, "", keys)
    for key in ("prompt", "completion"):
        if key not in row:
            raise FieldError(key, "is required beside the other of `prompt` and `completion`")
    tools = check_row_tools(row)
    if isinstance(row["completion"], list):
        prompt = _check_prompt(row["prompt"], "prompt")
        answer = _check_answer(row["completion"], "completion", prompt)
        return _join(number, prompt, answer, tools, Places("prompt", "completion", len(prompt)))
    prompt_text = expect_string(row["prompt"], "prompt")
    completion = expect_string(row["completion"], "completion")
    if not completion.strip():
        _refuse_empty("completion")
    messages = [{"role": "user", "content": prompt_text}, {"role": "assistant", "content": completion}]
    return ChatRow(number, messages, [False, True], tools, Places("prompt", "completion", 1, is_text=True))


def read_preference(row: dict[str, Any], number: int) -> PreferenceRow:
    expect_object(row, "", PREFERENCE_KEYS)
    if "input" not in row:
        raise FieldError("input", "is required: an object with the `messages` that both outputs answer")
    asked = expect_object(row["input"], "input", ("messages", *TOOL_KEYS))
    prompt = _check_prompt(asked.get("messages"), "input.messages")
    tools = check_row_tools(asked, "input.")
    answers, conversations = [], []
    for keys in _OUTPUT_KEYS:
        key = _find_key(row, keys)
        answers.append(_check_answer(row[key], key, prompt))
        places = Places("input.messages", key, len(prompt), beside="input.")
        conversations.append(_join(number, prompt, answers[-1], tools, places))
    if _say_the_same(*answers):
        raise FieldError(key, "says the same as the preferred one; change one of the two, or remove the row")
    return PreferenceRow(number, *conversations)


def read_labelled(row: dict[str, Any], number: int) -> LabelledRow:
    """With `messages`, the label is about what follows the last turn of the user (or system)."""
    if "label" not in row:
        raise FieldError(
            "label",
            "is required: true where the answer is wanted, false where it is not; rows without it are for the method "
            "supervised",
        )
    if not isinstance(row["label"], bool):
        raise FieldError("label", f"must be true or false, but is {json_type(row['label'])}")
    if "messages" not in row and ("prompt" in row or "completion" in row):
        return LabelledRow(number, read_completion(row, number, (*COMPLETION_KEYS, "label")), row["label"])
    expect_object(row, "", ("messages", *TOOL_KEYS, "label"))
    if "messages" not in row:
        raise FieldError("messages", "is required: the conversation with the answer that the label is about")
    messages, weights = check_messages(row["messages"], "messages", [])
    if not messages or messages[-1]["role"] != "assistant":
        raise FieldError("messages", "must end with the assistant's turn: the answer that the label is about")
    start = _find_answer(messages)
    refuse_weight_1(weights[:start], "messages", "the label is about the last answer only")
    is_trained = [
        message["role"] == "assistant" and i >= start and weights[i] != 0 for i, message in enumerate(messages)
    ]
    if not any(is_trained):
        raise FieldError("messages", "has weight 0 on the whole answer that the label is about; remove the weight")
    for i, message in enumerate(messages):
        if is_trained[i] and _is_empty(message):
            _refuse_empty(f"messages[{i}].content")
    return LabelledRow(number, ChatRow(number, messages, is_trained, check_row_tools(row)), row["label"])


def refuse_weight_1(weights: list[int | None], field: str, reason: str) -> None:
    """Where an assistant turn is only read."""
    for i, weight in enumerate(weights):
        if weight == 1:
            raise FieldError(f"{field}[{i}].weight", f"cannot be 1 here: {reason}; remove it")


def _check_prompt(value: object, field: str) -> list[Message]:
    messages, weights = check_messages(value, field, [])
    if not messages:
        raise FieldError(field, "must not be empty: at least the user's turn that is answered")
    refuse_weight_1(weights, field, "only the answers to these messages are trained on")
    return messages


def _check_answer(value: object, field: str, prompt: list[Message]) -> list[Message]:
    """All its assistant turns are trained on."""
    messages, weights = check_messages(value, field, prompt)
    if not messages:
        raise FieldError(field, "must not be empty: at least one message of the assistant; write it, or remove the row")
    for i, message in enumerate(messages):
        if message["role"] not in ("assistant", "tool"):
            raise FieldError(
                f"{field}[{i}].role",
                f"must be assistant or tool in an answer, but is {message['role']}; what comes before the answer "
                "belongs to the prompt",
            )
        if weights[i] == 0:
            raise FieldError(f"{field}[{i}].weight", "cannot be 0 here: the whole answer is trained on; remove it")
        if message["role"] == "assistant" and _is_empty(message):
            _refuse_empty(f"{field}[{i}].content")
    if messages[0]["role"] != "assistant":
        raise FieldError(
            f"{field}[0].role", "must be assistant: an answer starts there; put a tool's result into the prompt"
        )
    if messages[-1]["role"] != "assistant":
        raise FieldError(
            f"{field}[{len(messages) - 1}].role",
            "must be assistant: what follows the assistant's last turn cannot be trained on; remove it",
        )
    return messages


def _join(
    number: int, prompt: list[Message], answer: list[Message], tools: list[Message] | None, places: Places
) -> ChatRow:
    is_trained = [False] * len(prompt) + [message["role"] == "assistant" for message in answer]
    return ChatRow(number, prompt + answer, is_trained, tools, places)


def _find_key(row: dict[str, Any], keys: tuple[str, str]) -> str:
    given = [key for key in keys if key in row]
    if not given:
        raise FieldError(keys[0], "is required: a list of messages, at least one of them the assistant's")
    if len(given) > 1:
        raise FieldError(keys[1], f"cannot stand beside `{keys[0]}`, which replaced it; remove one of the two")
    return given[0]


def _find_answer(messages: list[Message]) -> int:
    """Where the answer that ends the conversation begins."""
    asked = max(
        (i for i, message in enumerate(messages) if message["role"] in ("system", "developer", "user")), default=-1
    )
    return asked + 1


def _say_the_same(one: list[Message], other: list[Message]) -> bool:
    """Ids of tool calls say nothing."""

    def said(answer: list[Message]) -> list[Any]:
        return [(turn["content"], [call["function"] for call in turn.get("tool_calls", ())]) for turn in answer]

    # 1 == True == 1.0 in Python, but not in JSON
    return said(one) == said(other) and json.dumps(said(one)) == json.dumps(said(other))


def _is_empty(message: Message) -> bool:
    return not message["content"].strip() and "tool_calls" not in message


def _refuse_empty(field: str) -> NoReturn:
    raise FieldError(field, "must not be empty: there is nothing to train on; write the answer, or remove the row")
