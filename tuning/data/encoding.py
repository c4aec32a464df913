"""Text to token ids, as `tokenizers` has them; what recurs between special tokens is encoded once.

Most rows of a file have the same system prompt, the same tools and the same words around each turn. A tokenizer cuts a
text at its special tokens before it looks at anything else, and what lies between two of them becomes the same ids
wherever it stands. So it is cut here, and the ids of its parts are remembered. That does not hold for a tokenizer that
looks at the beginning of the text, or at the white space around a special token: such a one gets whole texts.
"""

import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

from tuning.data.words import WordEncoder

MAX_REMEMBERED_CHARACTERS = 4 * 1024 * 1024

_PLACELESS = {"ByteLevel", "Digits", "Punctuation", "Sequence", "Split", "Whitespace", "WhitespaceSplit"}
"""Pre-tokenizers that do the same wherever in the text a part stands. Metaspace is none of them."""


class TextEncoder:
    """Adds no tokens to those of the text. Not for several threads at once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # Its own threads gain nothing on a row at a time, and complain when a process that used them forks.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._tokenizer = tokenizer
        self._words = WordEncoder.for_tokenizer(tokenizer)
        self._cut_ids = _find_cuts(tokenizer)
        # Where several match, the tokenizer takes the longest.
        longest_first = sorted(self._cut_ids, key=len, reverse=True)
        self._cuts = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._remembered: dict[str, array[int]] = {}
        self._remembered_characters = 0

    def encode(self, text: str) -> "array[int]":
        """int32."""
        return self.encode_each([text])[0]

    def encode_each(self, texts: Sequence[str]) -> list["array[int]"]:
        """Each by itself."""
        if not self._cut_ids:
            return list(self._encode(texts))
        parts = [self._cuts.split(text) for text in texts]  # in turn: a text, where it was cut, a text, …
        self._remember(part for each in parts for part in each[::2])
        return [self._join(each) for each in parts]

    def decode(self, ids: Sequence[int]) -> str:
        """With special tokens."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def known_words(self) -> dict[str, bytes]:
        """For another encoder of the same tokenizer."""
        return {} if self._words is None else self._words.remembered

    def learn(self, words: dict[str, bytes]) -> None:
        if self._words is not None:
            self._words.remembered |= words

    def _remember(self, parts: Iterable[str]) -> None:
        parts = list(parts)
        if self._remembered_characters > MAX_REMEMBERED_CHARACTERS:
            self._remembered.clear()
            self._remembered_characters = 0
        new = [part for part in parts if part not in self._remembered]
        for part, ids in zip(new, self._encode(new), strict=True):
            self._remembered[part] = ids
            self._remembered_characters += len(part)

    def _join(self, parts: list[str]) -> "array[int]":
        ids = array("i", self._remembered[parts[0]])
        for cut, part in zip(parts[1::2], parts[2::2], strict=True):
            ids.append(self._cut_ids[cut])
            ids.extend(self._remembered[part])
        return ids

    def _encode(self, texts: Sequence[str]) -> Iterator["array[int]"]:
        if self._words is not None:
            yield from self._words.encode(texts)
            return
        # The one that does not work out where in the text each token stands.
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield array("i", encoding.ids)


def _find_cuts(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens at which the tokenizer cuts a text first of all, by their text; none if it may not be cut here."""
    tokens = {id: token for id, token in tokenizer.get_added_tokens_decoder().items() if not token.normalized}
    looks_around = any(token.lstrip or token.rstrip or token.single_word for token in tokens.values())
    if looks_around or tokenizer.encode_special_tokens or not _is_placeless(tokenizer):
        return {}
    return {token.content: id for id, token in tokens.items()}


def _is_placeless(tokenizer: Tokenizer) -> bool:
    if tokenizer.pre_tokenizer is None:
        return True
    state: dict[str, Any] = json.loads(tokenizer.pre_tokenizer.__getstate__())
    kinds = {state["type"], *(each["type"] for each in state.get("pretokenizers", ()))}
    return kinds <= _PLACELESS
