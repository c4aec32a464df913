"""Token ids word by word: most words of a file were met before, and a dictionary answers faster than a tokenizer.

A byte-level tokenizer first cuts a text into words by a regular expression, then encodes each word by itself. Where
that expression is one of those below, it cuts

- between an ASCII letter or digit and white space or a quotation mark that follows it,
- before a single space between any visible ASCII character and an ASCII letter or digit,
- between an ASCII digit and any other visible ASCII character, whichever comes first,
- between the end of a line and an ASCII letter or digit (GPT-2: only where the end of the line stands alone),

and what it does with the text before such a place does not depend on the text behind it. So the text is cut there, into
what may be several of the tokenizer's words, and the ids of those pieces are remembered.
"""

import json
import re
from array import array
from collections import ChainMap
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Self

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

_MAX_REMEMBERED = 100_000
"""Pieces; with their ids they take about 25 MB."""
_MAX_CHARACTERS = 64
"""Of a piece that is remembered; longer ones hardly come again."""

_CUTS = (
    r"(?<=[0-9A-Za-z])(?=[ \n\"])",
    r"(?<=[!-~])(?= [0-9A-Za-z])",
    r"(?<=[!-~])(?=[0-9])",  # never between digits: they are found together
    r"(?<=[0-9])(?=[!-~])",
)
_LINE_END = r"(?<=\n)(?=[0-9A-Za-z])"
_LONE_LINE_END = r"(?<=[!-~]\n)(?=[0-9A-Za-z])"


def _pieces(line_end: str) -> re.Pattern[str]:
    """Never goes back, which would take a hundred bytes of memory for each space of a long row of spaces."""
    part = r"(?:[^ \n\"0-9]++|[0-9]++|[ \n\"])"
    cut = "|".join((*_CUTS, line_end))
    plain_word = r" ?[A-Za-z]++(?=[ \n\"0-9])"  # what most of them are: found faster, and the same
    return re.compile(rf"{plain_word}|{part}(?:(?!{cut}){part})*+")


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_END = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
)
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Built into ByteLevel."""
_KNOWN_PATTERNS = {
    _GPT2,
    # Llama 3, Qwen 2 and 3, Qwen 3.5
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_END}",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_END}",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_END}",
    # gpt-oss, Phi-4-mini; Mistral
    rf"{_O200K}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}",
    rf"{_TEKKEN}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_END}",
    # fettle-tiny
    r"\n| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)*|[^\S\n]+(?=\s)|[^\S\n]+",
}
_SPLIT_BEHAVIOURS = {("Isolated", False), ("Removed", True)}
"""Of what the pattern finds, and `invert`: both make words of what it finds."""


class WordEncoder:
    """Adds no tokens to those of the text. Not for several threads at once."""

    def __init__(self, tokenizer: Tokenizer, added_tokens: dict[str, int], separator: str, pattern: str) -> None:
        """For a tokenizer that `for_tokenizer` finds fit."""
        self._tokenizer = tokenizer
        self._added = {text: _to_bytes([id]) for text, id in added_tokens.items()}
        # The longest of those that match at one place, as in `tokenizers`.
        longest_first = sorted(added_tokens, key=len, reverse=True)
        self._cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})").split
        self._find_pieces = _pieces(_LONE_LINE_END if pattern == _GPT2 else _LINE_END).findall
        self._separator = separator
        self._separator_id = added_tokens[separator]
        self.remembered = dict(self._added)
        """The ids of a piece, as bytes: they are put together much faster than numbers."""

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer) -> Self | None:
        """None: its texts must be encoded whole."""
        pattern = _find_pattern(_state(tokenizer.pre_tokenizer))
        is_plain = (
            isinstance(tokenizer.model, BPE)
            and not tokenizer.model.dropout
            and not tokenizer.encode_special_tokens
            and tokenizer.truncation is None
            and tokenizer.padding is None
        )
        tokens = tokenizer.get_added_tokens_decoder()
        if pattern is None or not is_plain or not _can_be_cut_at(tokens.values(), _state(tokenizer.normalizer)):
            return None
        added = {token.content: id for id, token in tokens.items()}
        separator = next(
            (one for one in added if not any(_overlap(one, other) for other in added if other != one)), None
        )
        return None if separator is None else cls(tokenizer, added, separator, pattern)

    def encode(self, texts: Sequence[str]) -> list["array[int]"]:
        """int32, each text by itself."""
        each = [self._split(text) for text in texts]
        if len(self.remembered) > _MAX_REMEMBERED:
            self.remembered = dict(self._added)
        known: Mapping[str, bytes] = self.remembered
        if new := set(chain.from_iterable(each)).difference(known):
            ordered = list(new)
            ids = dict(zip(ordered, self._encode(ordered), strict=True))
            self.remembered |= {piece: ids[piece] for piece in new if len(piece) <= _MAX_CHARACTERS}
            if any(len(piece) > _MAX_CHARACTERS for piece in new):
                known = ChainMap(self.remembered, ids)
        return [array("i", b"".join(map(known.__getitem__, pieces))) for pieces in each]

    def _split(self, text: str) -> list[str]:
        pieces: list[str] = []
        for i, part in enumerate(self._cut(text)):
            if i % 2:
                pieces.append(part)
            elif part:
                pieces += self._find_pieces(part)
        return pieces

    def _encode(self, pieces: Sequence[str]) -> Iterator[bytes]:
        """In one call: most of them are so short that a call for each would cost more than its work."""
        # The one method of the library that does not work out where in the text each token stands.
        [joined] = self._tokenizer.encode_batch_fast([self._separator.join(pieces)], add_special_tokens=False)
        ids: list[int] = joined.ids
        ids.append(self._separator_id)
        start = 0
        for _ in pieces:
            end = ids.index(self._separator_id, start)
            yield _to_bytes(ids[start:end])
            start = end + 1


def _to_bytes(ids: list[int]) -> bytes:
    return array("i", ids).tobytes()


def _state(part: Any) -> dict[str, Any]:
    """A tokenizer's part as tokenizer.json has it."""
    state: dict[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return state


def _find_pattern(state: dict[str, Any]) -> str | None:
    """What words are found by; None: something that is not known here."""
    steps = state["pretokenizers"] if state.get("type") == "Sequence" else [state]
    if steps and steps[0].get("type") == "Digits":
        steps = steps[1:]
        if steps and steps[0].get("type") != "ByteLevel":
            return None
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return _GPT2
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behaviour, "invert": invert},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if pattern in _KNOWN_PATTERNS and (behaviour, invert) in _SPLIT_BEHAVIOURS:
            return str(pattern)
    return None


def _can_be_cut_at(tokens: Collection[AddedToken], normalizer: dict[str, Any]) -> bool:
    """Whether each of them, where it stands in a text, divides it into two that have nothing to do with each other."""
    if not tokens or any(token.lstrip or token.rstrip or token.single_word for token in tokens):
        return False
    early = [token.content for token in tokens if not token.normalized]
    late = [token.content for token in tokens if token.normalized]  # looked for between the early ones
    if normalizer and (normalizer["type"] != "NFC" or late):
        return False
    return not any(_overlap(one, other) for one in early for other in late)


def _overlap(one: str, other: str) -> bool:
    """Whether both could be found in one text at places that have a character in common."""
    if one in other or other in one:
        return True
    return any(one[-n:] == other[:n] or other[-n:] == one[:n] for n in range(1, min(len(one), len(other))))
