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
from typing import TYPE_CHECKING, Any, Self

import jinja2
from tokenizers import Tokenizer

from tuning.data.conversation_text import ConversationText, read_special_tokens, refuse_unwritten
from tuning.data.encoding import TextEncoder
from tuning.data.formats import NESTED_TOO_DEEPLY, RowError
from tuning.data.rows import ChatRow, LabelledRow, Places, PreferenceRow, PromptRow, Row

if TYPE_CHECKING:  # it brings the client of the Hugging Face hub along, half of what a row process takes to start
    from tuning.catalogue import CatalogueEntry

CONTENT_FORMAT = "string"
"""vLLM's `--chat-template-content-format`, to be set: left alone, it guesses from the template's syntax tree."""

_OPERATOR_REMEDY = "have the operator set a `chat_template` with {% generation %} for this base model"


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
    dropped_because: str | None = None
    """Why the row is not trained on, although nothing is wrong with it; None: it is."""

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
        self._made_of = (template, tokenizer_path.absolute(), tuple(stop_tokens), max_length)
        self.template_sha256 = hashlib.sha256(template.encode()).hexdigest()
        self.max_length = max_length
        tokenizer = Tokenizer.from_file(str(tokenizer_path))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._encoder = TextEncoder(tokenizer)
        self._stop_tokens = tuple(stop_tokens)
        self.stop_ids = frozenset(self._find_stop_id(token) for token in stop_tokens)
        # SentencePiece-like tokenizers put a space before the first word of whatever they are given.
        self._adds_space = not tokenizer.encode("a", add_special_tokens=False).tokens[0].startswith("a")
        self._text = _build_text(template, tokenizer_path.with_name("tokenizer_config.json"))

    @classmethod
    def from_entry(cls, entry: "CatalogueEntry", max_length: int | None = None) -> Self:
        """`max_length` defaults to the whole context. Raises RenderingError, CatalogueError."""
        _ = entry.tokenizer_config_path  # fetched here, so that it lies beside the tokenizer
        return cls(entry.template, entry.tokenizer_path, entry.stop_tokens, max_length or entry.context_length)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is made anew, from the same files; words that it knows it need not learn again."""
        return type(self), self._made_of, self._encoder.known_words()

    def __setstate__(self, words: dict[str, bytes]) -> None:
        self._encoder.learn(words)

    def decode(self, ids: Sequence[int]) -> str:
        """For people: with special tokens, and a replacement character where one is cut in two."""
        return self._encoder.decode(ids)

    def render(self, row: Row) -> RenderedRow:
        """A conversation ends with its last trained turn: what follows cannot change the loss. One that is longer than
        `max_length` is cut at its tail. A prompt that the model is to answer itself is never cut: that would be another
        prompt.

        Raises RowError; RenderingError where no row could be rendered.
        """
        try:
            match row:
                case ChatRow():
                    return self._render_answer(row.number, row, b"")
                case LabelledRow():
                    return self._render_answer(row.number, row.conversation, b"\1" if row.is_desirable else b"\0")
                case PreferenceRow():
                    return self._render_preference(row)
                case PromptRow():
                    return self._render_question(row)
        except RecursionError:
            raise RowError(row.number, "", NESTED_TOO_DEEPLY) from None

    def render_prompt(self, row: ChatRow | PromptRow, i: int) -> list[int]:
        """The ids that vLLM feeds to the model when it asks for `messages[i]`. Raises RowError."""
        text, _ = self._text.render(row, i, add_generation_prompt=True)
        return self._encoder.encode(text).tolist()

    def _render_answer(self, number: int, row: ChatRow, note: bytes) -> RenderedRow:
        sequence = self._render_conversation(row)
        return RenderedRow(number, (sequence,), note, self._why_dropped(sequence))

    def _render_preference(self, row: PreferenceRow) -> RenderedRow:
        # Both begin with the same messages and tools, so that the text of the prompt is made once.
        prompt, _ = self._text.render(row.chosen, row.chosen.is_trained.index(True), add_generation_prompt=True)
        chosen, rejected = (self._render_conversation(each, prompt) for each in (row.chosen, row.rejected))
        dropped_because = self._why_dropped(chosen) or self._why_dropped(rejected)
        if dropped_because is None and chosen.input_ids == rejected.input_ids:
            if not chosen.is_cut and not rejected.is_cut:
                raise RowError(
                    row.number,
                    row.rejected.places.answer,
                    "becomes the same tokens as the preferred one with the chat template of this base model; "
                    "change one of the two, or remove the row",
                )
            dropped_because = f"the two outputs differ only after {self.max_length:,} tokens"
        return RenderedRow(row.number, (chosen, rejected), b"", dropped_because)

    def _render_question(self, row: PromptRow) -> RenderedRow:
        text, _ = self._text.render(row, len(row.messages), add_generation_prompt=True)
        refuse_unwritten(row, len(row.messages), text)
        ids = self._encoder.encode(text)
        # How long an answer may become is not known here; there must be room for its first token.
        is_too_long = len(ids) >= self.max_length
        return RenderedRow(
            row.number,
            (RenderedSequence(ids, bytes(len(ids)), is_cut=False),),
            row.item,
            f"the prompt leaves no room for an answer within {self.max_length:,} tokens" if is_too_long else None,
        )

    def _why_dropped(self, sequence: RenderedSequence) -> str | None:
        return None if sequence.supervised_tokens else f"the answer starts after {self.max_length:,} tokens"

    def _render_conversation(self, row: ChatRow, first_prompt: str | None = None) -> RenderedSequence:
        text, starts = self._render_turns(row, first_prompt)
        pieces = self._encode_pieces(text, starts)
        ids = pieces[0]
        mask = bytearray(len(ids))
        for piece in pieces[1:]:
            turn = self._count_turn_tokens(piece)
            ids.extend(piece)
            mask += b"\1" * turn + bytes(len(piece) - turn)
        if len(ids) <= self.max_length:
            return RenderedSequence(ids, bytes(mask), is_cut=False)
        return RenderedSequence(ids[: self.max_length], bytes(mask[: self.max_length]), is_cut=True)

    def _render_turns(self, row: ChatRow, first_prompt: str | None = None) -> tuple[str, list[int]]:
        """The row's text, and where in it each trained turn starts. `first_prompt`: of the first of them, if known."""
        trained = [i for i, is_trained in enumerate(row.is_trained) if is_trained]
        end = trained[-1] + 1
        text, spans = self._text.render(row, end)
        refuse_unwritten(row, end, text)
        starts: list[int] = []
        for i in trained:
            self._refuse_stop_tokens(row, i)
            start = self._find_start(row, i, text, None if starts else first_prompt)
            if self._text.has_generation_tags:
                self._check_span(text, start, spans)
            else:
                self._check_turn(row, i, start, text)
            starts.append(start)
        return text, starts

    def _find_start(self, row: ChatRow, i: int, text: str, prompt: str | None) -> int:
        if i == 0:
            raise RowError(
                row.number,
                row.places.path(0, ".role"),
                "a trained assistant turn must answer something; put a user turn before it, or give it weight 0",
            )
        if prompt is None:
            prompt, _ = self._text.render(row, i, add_generation_prompt=True)
        if not text.startswith(prompt):
            raise RowError(
                row.number,
                row.places.path(i),
                "the chat template of this base model writes the turns before this one differently once the "
                f"conversation goes on, so it cannot be trained as it would be asked; {_remedy(row)}",
            )
        return len(prompt)

    def _check_turn(self, row: ChatRow, i: int, start: int, text: str) -> None:
        """Without marks in the template, a turn must be written the same whether or not others follow."""
        is_last = not any(row.is_trained[i + 1 :])
        turn = text if is_last else self._text.render(row, i + 1)[0]
        if not text.startswith(turn[: self._find_stop(turn, start)]):
            raise RowError(
                row.number,
                row.places.path(i),
                "the chat template of this base model writes this turn differently once the conversation goes on; "
                + _remedy(row),
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
        written: str = message["content"]
        if "tool_calls" in message:
            written += json.dumps(message["tool_calls"], ensure_ascii=False)
        for token in self._stop_tokens:
            if token in written:
                part = ".content" if token in message["content"] else ".tool_calls"
                raise RowError(
                    row.number,
                    row.places.path(i, part),
                    f"contains {token!r}, which ends an assistant turn of this base model; remove it from the text",
                )

    def _encode_pieces(self, text: str, starts: list[int]) -> list["array[int]"]:
        """Ids of the text, cut at each start. What comes before a start is tokenised without sight of what follows,
        as it is at inference."""
        if self._adds_space:
            # A piece of its own would get a space that is not there, so the whole is cut, where the prompts allow it.
            ids, *prompts = self._encoder.encode_each([text, *(text[:start] for start in starts)])
            if all(ids[: len(prompt)] == prompt for prompt in prompts):
                bounds = [0, *map(len, prompts), len(ids)]
                return [ids[a:b] for a, b in pairwise(bounds)]
        return self._encoder.encode_each([text[a:b] for a, b in pairwise([0, *starts, len(text)])])

    def _count_turn_tokens(self, piece: "array[int]") -> int:
        ids = piece.tobytes()
        ends = [at + 1 for stop in self.stop_ids if (at := _find_id(ids, stop)) is not None]
        if not ends:
            raise RenderingError(
                f"the tokenizer joins the stop tokens {self._stop_tokens} with the text around them; "
                "make them special tokens"
            )
        return min(ends)

    def _find_stop_id(self, token: str) -> int:
        ids = self._encoder.encode(token)
        if len(ids) != 1:
            raise RenderingError(f"the stop token {token!r} is not one token of the tokenizer, but {len(ids)}")
        return ids[0]


def _find_id(ids: bytes, id: int) -> int | None:
    """The place of the first one. Bytes are searched ten times faster than an array."""
    wanted = array("i", [id]).tobytes()
    at = ids.find(wanted)
    while at % len(wanted) and at > 0:  # parts of two ids
        at = ids.find(wanted, at + 1)
    return None if at < 0 else at // len(wanted)


def _remedy(row: ChatRow) -> str:
    """Where turns have weights, one can be left out."""
    return f"give that turn weight 0, or {_OPERATOR_REMEDY}" if row.places == Places() else _OPERATOR_REMEDY


def _build_text(template: str, tokenizer_config: Path) -> ConversationText:
    try:
        return ConversationText(template, read_special_tokens(tokenizer_config))
    except jinja2.TemplateSyntaxError as error:
        raise RenderingError(f"the chat template is not valid Jinja: line {error.lineno}: {error.message}") from error
    except (OSError, ValueError) as error:
        raise RenderingError(f"cannot read the special tokens: {tokenizer_config}: {error}") from error
