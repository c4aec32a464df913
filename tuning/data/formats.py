"""A line of a training file and every rule it must keep; the first step of `receipt.read_rows`.

Which rows a file may hold depends on the job's method. `messages`, `tools` and `answers` have the rules.

The last message of a chat row need not be the assistant's, as long as an assistant turn is trained on.
"""

import json
from typing import Any, NoReturn

import msgspec

from tuning.contract import MethodName
from tuning.data.answers import read_completion, read_labelled, read_preference, refuse_weight_1
from tuning.data.fields import FieldError, json_type, shorten
from tuning.data.messages import TOOL_KEYS, check_messages, check_row_tools
from tuning.data.rows import ChatRow, PromptRow, Row
from tuning.data.tools import check_tools

MAX_LINE_BYTES = 16 * 1024 * 1024
"""So that a file without a line break cannot fill the memory. A 128k-token row has about half a megabyte."""

NESTED_TOO_DEEPLY = "is nested too deeply; make it flatter"

_CHAT_KEYS = ("messages", *TOOL_KEYS)
_PROMPT_HINT = "rows that end with the user's turn and have keys of their own are for the method reinforcement"
_WANTED: dict[MethodName, str] = {
    "supervised": "`messages`, or `prompt` and `completion`",
    "dpo": "`input`, `preferred_output` and `non_preferred_output`",
    "orpo": "`input`, `preferred_output` and `non_preferred_output`",
    "kto": "`label` beside `messages`, or beside `prompt` and `completion`",
    "reinforcement": "`messages` that end with the user's turn",
}
_PREFERENCE = "a preference row, which the methods dpo and orpo take"
_LABELLED = "a labelled row, which the method kto takes"
_COMPLETION = "a prompt/completion row, which the method supervised takes"
_FORMATS: tuple[tuple[tuple[str, ...], str, tuple[MethodName, ...]], ...] = (
    (("preferred_output",), _PREFERENCE, ("dpo", "orpo")),
    (("non_preferred_output",), _PREFERENCE, ("dpo", "orpo")),
    (("preferred_completion",), _PREFERENCE, ("dpo", "orpo")),
    (("non_preferred_completion",), _PREFERENCE, ("dpo", "orpo")),
    (("chosen",), "a preference row in TRL's words", ()),
    (("label", "messages"), _LABELLED, ("kto",)),
    (("label", "completion"), _LABELLED, ("kto",)),
    (("completion",), _COMPLETION, ("supervised", "kto")),
    (("messages",), "a chat row, which the method supervised takes", ("supervised", "kto")),
    (("conversations",), "a ShareGPT row", ()),
    (("instruction",), "an Alpaca row", ()),
    (("custom_id",), "a request of the Batch API", ()),
    (("prompt",), _COMPLETION, ("supervised", "kto")),
    (("text",), "plain text", ()),
)
"""The keys that tell a format, what it is, and the methods that take it; the first that fits."""


class RowError(Exception):
    """A row cannot be trained on. `field` is its path in the row, empty for the row as a whole."""

    def __init__(self, row: int, field: str, message: str) -> None:
        super().__init__(row, field, message)
        self.row = row
        self.field = field
        self.message = message

    @property
    def fault(self) -> str:
        """What is wrong, whichever row it is."""
        return f"{self.field}: {self.message}" if self.field else self.message

    def __str__(self) -> str:
        return f"Row {self.row}: {self.fault}"


def parse_row(line: bytes, number: int, method: MethodName = "supervised") -> Row:
    """A ChatRow for supervised, a PreferenceRow for dpo and orpo, a LabelledRow for kto, a PromptRow for
    reinforcement. Raises RowError."""
    try:
        row = _decode(line)
        _refuse_other_formats(row, method)
        match method:
            case "supervised":
                if "messages" not in row and ("prompt" in row or "completion" in row):
                    return read_completion(row, number)
                return _read_chat(row, number)
            case "dpo" | "orpo":
                return read_preference(row, number)
            case "kto":
                return read_labelled(row, number)
            case "reinforcement":
                return _read_prompt(row, number)
    except FieldError as error:
        raise RowError(number, error.field, error.message) from None
    except RecursionError:
        raise RowError(number, "", NESTED_TOO_DEEPLY) from None


def _decode(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise FieldError("", f"is longer than {MAX_LINE_BYTES >> 20} MiB; write one row a line, and split long rows")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise FieldError("", f"is not UTF-8 (byte {error.start + 1} of the row); save the file as UTF-8") from None
    try:
        row = msgspec.json.decode(text)
    except RecursionError:
        raise FieldError("", NESTED_TOO_DEEPLY) from None
    except msgspec.MsgspecError as error:
        _refuse_json(text, error)
    if isinstance(row, list):
        raise FieldError("", "must be an object, but is an array; write one row a line (JSONL), not one array of rows")
    if not isinstance(row, dict):
        raise FieldError("", f"must be an object, but is {json_type(row)}")
    return row


def _refuse_json(text: str, error: msgspec.MsgspecError) -> NoReturn:
    """Says where: the standard decoder knows the position, but takes what JSON forbids (NaN, halves of surrogates)."""
    try:
        json.loads(text)
    except json.JSONDecodeError as located:
        message = f"is not valid JSON: {located.msg} at character {located.pos + 1}"
    else:
        message = f"is not valid JSON: {error}; NaN, Infinity and unpaired surrogates (\\ud800) cannot be used"
    raise FieldError("", message) from None


def _refuse_other_formats(row: dict[str, Any], method: MethodName) -> None:
    if "messages" in row and (method == "reinforcement" or (method == "supervised" and "label" not in row)):
        return  # in a reinforcement row, any other key is the grader's
    for keys, description, methods in _FORMATS:
        if all(key in row for key in keys):
            if method in methods:
                return
            raise FieldError(keys[0], f"makes this {description}; the method {method} wants {_WANTED[method]}")


def _read_chat(row: dict[str, Any], number: int) -> ChatRow:
    if "messages" not in row:
        raise FieldError("messages", "is required: a list of turns, each with a role and content")
    for key in row:
        if key not in _CHAT_KEYS:
            hint = f"; {_PROMPT_HINT}" if _is_prompt(row["messages"]) else ""
            raise FieldError(
                shorten(key), f"is not a known key; remove it, or use one of {', '.join(_CHAT_KEYS)}{hint}"
            )
    messages, weights = check_messages(row["messages"], "messages", [])
    if not messages:
        raise FieldError("messages", "must not be empty: at least a user turn and an assistant turn")
    is_trained = [message["role"] == "assistant" and weights[i] != 0 for i, message in enumerate(messages)]
    if not any(message["role"] == "assistant" for message in messages):
        raise FieldError(
            "messages", f"has no assistant turn; the assistant's answers are what is trained on; {_PROMPT_HINT}"
        )
    if not any(is_trained):
        raise FieldError("messages", "has weight 0 on every assistant turn, so nothing would be trained on")
    return ChatRow(number, messages, is_trained, check_row_tools(row))


def _read_prompt(row: dict[str, Any], number: int) -> PromptRow:
    if "messages" not in row:
        raise FieldError("messages", "is required: a list of turns, the last one the user's")
    messages, weights = check_messages(row["messages"], "messages", [])
    if not messages:
        raise FieldError("messages", "must not be empty: at least the user's turn that the model is to answer")
    if messages[-1]["role"] != "user":
        raise FieldError(
            f"messages[{len(messages) - 1}].role",
            f"must be user in the last message, but is {messages[-1]['role']}: the model writes the answer itself; "
            "move a reference answer to a key of its own, where the grader can read it (rows that are trained on their "
            "answers are for the method supervised)",
        )
    refuse_weight_1(weights, "messages", "only the answers that the model gives are trained on")
    tools = None if row.get("tools") is None else check_tools(row["tools"], "tools") or None
    return PromptRow(number, messages, tools, msgspec.json.encode(row, order="sorted"))


def _is_prompt(messages: object) -> bool:
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "user"
