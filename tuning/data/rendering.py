"""From a checked row to token ids and a loss mask: what is trained on, and what vLLM will see at inference.

Before the first trained turn stand exactly the ids that vLLM feeds to the model for that prompt. That takes three
things: messages in vLLM's shape, Jinja set up as transformers sets it up, and text tokenised in pieces that start
where the model starts to speak. Before a later trained turn, the earlier answers stand as the model speaks them; vLLM
tokenises them anew, which gives the same ids unless an answer's first characters merge with the prompt's last.
Where a template does not allow all this, the row is refused, never approximated.

A trained turn is supervised from the end of the generation prompt to the first stop token, which is included.
A template with `{% generation %}` says which text is the assistant's. With any other, a turn is what `messages[:i + 1]`
render beyond `messages[:i]` with the generation prompt.
"""

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import jinja2
from tokenizers import Tokenizer

from tuning.catalogue import CatalogueEntry
from tuning.data.chat_template import ChatTemplate
from tuning.data.formats import ChatRow, RowError

CONTENT_FORMAT = "string"
"""vLLM's `--chat-template-content-format`, to be set: left alone, it guesses from the template's syntax tree."""

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The variables that transformers gives to a template, from tokenizer_config.json."""

_OTHER_TURNS_REMEDY = (
    "give that turn weight 0, or have the operator set a `chat_template` with {% generation %} for this base model"
)

Messages = list[dict[str, Any]]


class RenderingError(Exception):
    """A base model's template, tokenizer and stop tokens do not fit together: for the operator, not for the user."""


@dataclass(frozen=True, slots=True)
class RenderedSequence:
    input_ids: "array[int]"
    """int32, `max_length` of them at most."""
    is_supervised: bytes
    """A byte a token: 1 where the token is to be predicted, 0 where it is only read. Not shifted."""
    is_cut: bool

    @property
    def supervised_tokens(self) -> int:
        return self.is_supervised.count(1)


@dataclass(frozen=True, slots=True)
class RenderedRow:
    number: int
    """The line in the file, from 1."""
    sequences: tuple[RenderedSequence, ...]
    """One; of a preference two: the conversation with the wanted answer, then with the other. Of a reinforcement row
    it is the prompt, where nothing is supervised."""
    note: bytes = b""
    """What else is trained on. KTO: b"\1" where the answer is wanted, b"\0" where it is not; reinforcement: the row
    as JSON, which the grader reads as `item`."""

    @property
    def is_cut(self) -> bool:
        return any(sequence.is_cut for sequence in self.sequences)

    @property
    def tokens(self) -> int:
        return sum(len(sequence.input_ids) for sequence in self.sequences)

    @property
    def supervised_tokens(self) -> int:
        return sum(sequence.supervised_tokens for sequence in self.sequences)


class ChatRenderer:
    """Not for several threads at once."""

    def __init__(self, template: str, tokenizer_path: Path, stop_tokens: Sequence[str], max_length: int) -> None:
        """`tokenizer_config.json` is read from beside the tokenizer. Raises RenderingError."""
        self.template_sha256 = hashlib.sha256(template.encode()).hexdigest()
        self.max_length = max_length
        self._special_tokens = _read_special_tokens(tokenizer_path.with_name("tokenizer_config.json"))
        self._tokenizer = Tokenizer.from_file(str(tokenizer_path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._stop_tokens = tuple(stop_tokens)
        self._stop_ids = {self._find_stop_id(token) for token in stop_tokens}
        # SentencePiece-like tokenizers put a space before the first word of whatever they are given.
        self._adds_space = not self._tokenizer.encode("a", add_special_tokens=False).tokens[0].startswith("a")
        self._has_developer_role = "'developer'" in template or '"developer"' in template  # as vLLM looks for it
        try:
            self._template = ChatTemplate(template)
        except jinja2.TemplateSyntaxError as error:
            raise RenderingError(
                f"the chat template is not valid Jinja: line {error.lineno}: {error.message}"
            ) from error

    @classmethod
    def from_entry(cls, entry: CatalogueEntry, max_length: int | None = None) -> Self:
        """`max_length` defaults to the whole context. Raises RenderingError, CatalogueError."""
        _ = entry.tokenizer_config_path  # fetched here, so that it lies beside the tokenizer
        return cls(entry.template, entry.tokenizer_path, entry.stop_tokens, max_length or entry.context_length)

    def render(self, row: ChatRow) -> RenderedRow:
        """A row ends with its last trained turn: what follows cannot change the loss. One that is longer than
        `max_length` is cut at its tail; nothing supervised may be left then.

        Raises RowError; RenderingError where no row could be rendered.
        """
        text, starts = self._render_turns(row)
        pieces = self._encode_pieces(text, starts)
        ids = array("i", pieces[0])
        mask = bytearray(len(ids))
        for piece in pieces[1:]:
            turn = self._count_turn_tokens(piece)
            ids.extend(piece)
            mask += b"\1" * turn + bytes(len(piece) - turn)
        sequence = RenderedSequence(ids[: self.max_length], bytes(mask[: self.max_length]), len(ids) > self.max_length)
        return RenderedRow(row.number, (sequence,))

    def render_prompt(self, row: ChatRow, i: int) -> list[int]:
        """The ids that vLLM feeds to the model when it asks for `messages[i]`. Raises RowError."""
        text, _ = self._render_text(row, i, add_generation_prompt=True)
        return self._encode(text)

    def _render_turns(self, row: ChatRow) -> tuple[str, list[int]]:
        """The row's text, and where in it each trained turn starts."""
        trained = [i for i, is_trained in enumerate(row.is_trained) if is_trained]
        end = trained[-1] + 1
        text, spans = self._render_text(row, end)
        _refuse_unwritten(row, end, text)
        starts = []
        for i in trained:
            self._refuse_stop_tokens(row, i)
            start = self._find_start(row, i, text)
            if self._template.has_generation_tags:
                self._check_span(text, start, spans)
            else:
                self._check_turn(row, i, start, text)
            starts.append(start)
        return text, starts

    def _find_start(self, row: ChatRow, i: int, text: str) -> int:
        if i == 0:
            raise RowError(
                row.number,
                "messages[0].role",
                "a trained assistant turn must answer something; put a user turn before it, or give it weight 0",
            )
        prompt, _ = self._render_text(row, i, add_generation_prompt=True)
        if not text.startswith(prompt):
            raise RowError(
                row.number,
                f"messages[{i}]",
                "the chat template of this base model writes the turns before this one differently once the "
                f"conversation goes on, so it cannot be trained as it would be asked; {_OTHER_TURNS_REMEDY}",
            )
        return len(prompt)

    def _check_turn(self, row: ChatRow, i: int, start: int, text: str) -> None:
        """Without marks in the template, a turn must be written the same whether or not others follow."""
        is_last = not any(row.is_trained[i + 1 :])
        turn = text if is_last else self._render_text(row, i + 1)[0]
        if not text.startswith(turn[: self._find_stop(turn, start)]):
            raise RowError(
                row.number,
                f"messages[{i}]",
                "the chat template of this base model writes this turn differently once the conversation goes on; "
                + _OTHER_TURNS_REMEDY,
            )

    def _check_span(self, text: str, start: int, spans: list[tuple[int, int]]) -> None:
        """The template's mark must begin where its prompt ends, or earlier, and hold the stop token."""
        span = next((span for span in spans if span[1] > start), None)
        if span is None or span[0] > start:
            raise RenderingError(
                "the chat template's {% generation %} block does not begin where its generation prompt ends: "
                f"{text[start : span[0] if span else None][:80]!r} lies between"
            )
        if self._find_stop(text, start) > span[1]:
            raise RenderingError(f"the chat template's {{% generation %}} block holds none of {self._stop_tokens}")

    def _find_stop(self, text: str, start: int) -> int:
        """The end of the first stop token."""
        ends = [at + len(token) for token in self._stop_tokens if (at := text.find(token, start)) >= 0]
        if not ends:
            raise RenderingError(
                f"the chat template ends an assistant turn with none of the stop tokens {self._stop_tokens}; "
                f"the turn is {text[start:][-80:]!r}"
            )
        return min(ends)

    def _refuse_stop_tokens(self, row: ChatRow, i: int) -> None:
        message = row.messages[i]
        written = message["content"] + json.dumps(message.get("tool_calls", ""), ensure_ascii=False)
        for token in self._stop_tokens:
            if token in written:
                field = "content" if token in message["content"] else "tool_calls"
                raise RowError(
                    row.number,
                    f"messages[{i}].{field}",
                    f"contains {token!r}, which ends an assistant turn of this base model; remove it from the text",
                )

    def _render_text(
        self, row: ChatRow, end: int, *, add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """Of the messages before `end`."""
        messages = row.messages[:end]
        if any(message["role"] == "developer" for message in messages):
            messages = _with_tools_key(messages) if self._has_developer_role else _with_one_system_turn(messages)
        try:
            return self._template.render(
                messages=messages, tools=row.tools, add_generation_prompt=add_generation_prompt, **self._special_tokens
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            reason = f"the chat template of this base model refuses the conversation: {error}"
            raise RowError(row.number, "messages", reason) from error

    def _encode_pieces(self, text: str, starts: list[int]) -> list[list[int]]:
        """Ids of the text, cut at each start. What comes before a start is tokenised without sight of what follows,
        as it is at inference."""
        if self._adds_space:
            # A piece of its own would get a space that is not there, so the whole is cut, where the prompts allow it.
            ids = self._encode(text)
            prompts = [self._encode(text[:start]) for start in starts]
            if all(ids[: len(prompt)] == prompt for prompt in prompts):
                bounds = [0, *map(len, prompts), len(ids)]
                return [ids[a:b] for a, b in pairwise(bounds)]
        return [self._encode(text[a:b]) for a, b in pairwise([0, *starts, len(text)])]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _count_turn_tokens(self, piece: list[int]) -> int:
        count = next((i for i, token in enumerate(piece, 1) if token in self._stop_ids), None)
        if count is None:
            raise RenderingError(
                f"the tokenizer joins the stop tokens {self._stop_tokens} with the text around them; "
                "make them special tokens"
            )
        return count

    def _find_stop_id(self, token: str) -> int:
        ids = self._encode(token)
        if len(ids) != 1:
            raise RenderingError(f"the stop token {token!r} is not one token of the tokenizer, but {len(ids)}")
        return ids[0]


def _refuse_unwritten(row: ChatRow, end: int, text: str) -> None:
    """Many templates leave out, without a word, the roles, tools and calls that they do not know."""
    remedy = "is left out by the chat template of this base model; remove it, or choose a base model that knows it"
    for i, tool in enumerate(row.tools or ()):
        if tool["function"]["name"] not in text:
            raise RowError(row.number, f"tools[{i}]", remedy)
    for i, message in enumerate(row.messages[:end]):
        for n, call in enumerate(message.get("tool_calls", ())):
            if call["function"]["name"] not in text:
                raise RowError(row.number, f"messages[{i}].tool_calls[{n}]", remedy)
        # The last line only: a template may take the thoughts off an answer, or write a tool's result as JSON.
        line = message["content"].rstrip().rpartition("\n")[2].strip()
        if line not in text and json.dumps(line, ensure_ascii=False)[1:-1] not in text:
            raise RowError(row.number, f"messages[{i}].content", remedy)


def _read_special_tokens(path: Path) -> dict[str, str]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RenderingError(f"cannot read the special tokens: {path}: {error}") from error
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
