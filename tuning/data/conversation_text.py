"""The text of a conversation: its messages as vLLM hands them to the chat template, and what the template writes."""

import json
from pathlib import Path

import jinja2

from tuning.data.chat_template import ChatTemplate
from tuning.data.formats import RowError
from tuning.data.messages import Message
from tuning.data.rows import ChatRow, PromptRow

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The variables that transformers gives to a template, from tokenizer_config.json."""


Messages = list[Message]


class ConversationText:
    """Not for several threads at once."""

    def __init__(self, template: str, special_tokens: dict[str, str]) -> None:
        """Raises jinja2.TemplateSyntaxError."""
        self._template = ChatTemplate(template)
        self._special_tokens = special_tokens
        self._has_developer_role = "'developer'" in template or '"developer"' in template  # as vLLM looks for it

    @property
    def has_generation_tags(self) -> bool:
        return self._template.has_generation_tags

    def render(
        self, row: ChatRow | PromptRow, end: int, *, add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """Of the messages before `end`, with the spans of `ChatTemplate.render`. Raises RowError."""
        messages = row.messages[:end]
        if any(message["role"] == "developer" for message in messages):
            messages = _with_tools_key(messages) if self._has_developer_role else _with_one_system_turn(messages)
        try:
            return self._template.render(
                messages=messages, tools=row.tools, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            reason = f"the chat template of this base model refuses the conversation: {error}"
            raise RowError(row.number, row.places.prompt, reason) from error


def refuse_unwritten(row: ChatRow | PromptRow, end: int, text: str) -> None:
    """Many templates leave out, without a word, the roles, tools and calls that they do not know."""
    remedy = "is left out by the chat template of this base model; remove it, or choose a base model that knows it"
    for i, tool in enumerate(row.tools or ()):
        if tool["function"]["name"] not in text:
            raise RowError(row.number, f"{row.places.beside}tools[{i}]", remedy)
    for i, message in enumerate(row.messages[:end]):
        for n, call in enumerate(message.get("tool_calls", ())):
            if call["function"]["name"] not in text:
                raise RowError(row.number, row.places.path(i, f".tool_calls[{n}]"), remedy)
        # The last line only: a template may take the thoughts off an answer, or write a tool's result as JSON.
        line = message["content"].rstrip().rpartition("\n")[2].strip()
        if line not in text and json.dumps(line, ensure_ascii=False)[1:-1] not in text:
            raise RowError(row.number, row.places.path(i, ".content"), remedy)


def read_special_tokens(path: Path) -> dict[str, str]:
    """From tokenizer_config.json. Raises OSError, ValueError."""
    config = json.loads(path.read_text(encoding="utf-8"))
    tokens = {name: config.get(name) for name in _SPECIAL_TOKENS}
    return {
        name: token["content"] if isinstance(token, dict) else token
        for name, token in tokens.items()
        if token is not None
    }


def _with_tools_key(messages: Messages) -> Messages:
    """vLLM lets developer turns bring tools along, and always sets the key."""
    return [message | {"tools": None} if message["role"] == "developer" else message for message in messages]


def _with_one_system_turn(messages: Messages) -> Messages:
    """What vLLM does for templates that do not know the developer role: it becomes system, and all system turns
    become one, the first."""
    messages = [message | {"role": "system"} if message["role"] == "developer" else message for message in messages]
    system = [i for i, message in enumerate(messages) if message["role"] == "system"]
    if system == [0]:
        return messages
    merged = "\n\n".join(messages[i]["content"] for i in system if messages[i]["content"])
    others = [message for message in messages if message["role"] != "system"]
    return [{"role": "system", "content": merged}, *others]
