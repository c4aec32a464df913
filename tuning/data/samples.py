"""Some rows of a file in a readable form, with what is supervised in them: a picture of what is trained on.

The rows are the shortest, the longest and, of some that are drawn by their digest, the one whose length is nearest to
the median. So the same file always shows the same rows, and none has to be read twice.
"""

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tuning.data.rendering import RenderedRow, RenderedSequence

_DRAWN_ROWS = 16
_MAX_PIECES = 20
_MAX_PIECE_TOKENS = 200
_MAX_PIECE_CHARACTERS = 2000  # a token may be a long row of spaces

Which = Literal["shortest", "median", "longest"]


class SamplePiece(BaseModel):
    """Neighbouring tokens that are all trained on, or are all only read."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    text: str
    """With special tokens; of a long piece the beginning and the end, with ` … ` between them."""
    is_supervised: bool
    tokens: int
    is_shortened: bool = False


class SampleSequence(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    answer: Literal["preferred", "non_preferred"] | None
    """Of a preference: which of the two."""
    pieces: tuple[SamplePiece, ...]
    left_out_pieces: int = 0
    """In the middle of a long conversation."""


class Sample(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    which: Which
    row: int
    tokens: int
    supervised_tokens: int
    sequences: tuple[SampleSequence, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    is_supervised: bool
    tokens: int
    ids: tuple[Sequence[int], ...]
    """All of them, or the first and the last."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    row: int
    length: int
    tokens: int
    supervised_tokens: int
    sequences: tuple[tuple[tuple[_Piece, ...], int], ...]
    """Pieces, and how many between them are left out."""


@dataclass(slots=True)
class SampleChoice:
    shortest: _Candidate | None = None
    longest: _Candidate | None = None
    drawn: list[tuple[int, int, _Candidate]] = field(default_factory=list)
    """Those with the smallest digests so far, by digest and row number."""

    def offer(self, row: RenderedRow, length: int, digest: int) -> None:
        """Rows come in the file's order."""
        if self.shortest is None or length < self.shortest.length:
            self.shortest = _candidate(row, length)
        if self.longest is None or length > self.longest.length:
            self.longest = _candidate(row, length)
        if len(self.drawn) < _DRAWN_ROWS or digest < self.drawn[-1][0]:
            self._draw((digest, row.number, _candidate(row, length)))

    def extend(self, later: "SampleChoice") -> None:
        if later.shortest and (self.shortest is None or later.shortest.length < self.shortest.length):
            self.shortest = later.shortest
        if later.longest and (self.longest is None or later.longest.length > self.longest.length):
            self.longest = later.longest
        for each in later.drawn:
            self._draw(each)

    def show(self, median: int, decode: Callable[[Sequence[int]], str]) -> tuple[Sample, ...]:
        """Fewer than three where there are not as many rows."""
        chosen: dict[int, tuple[Which, _Candidate]] = {}
        middle = min((each for _, _, each in self.drawn), key=lambda each: abs(each.length - median), default=None)
        which: tuple[tuple[Which, _Candidate | None], ...] = (
            ("shortest", self.shortest),
            ("longest", self.longest),
            ("median", middle),
        )
        for name, candidate in which:
            if candidate is not None:
                chosen.setdefault(candidate.row, (name, candidate))
        ordered = sorted(chosen.values(), key=lambda each: each[1].length)
        return tuple(_show(name, candidate, decode) for name, candidate in ordered)

    def _draw(self, candidate: tuple[int, int, _Candidate]) -> None:
        insort(self.drawn, candidate, key=lambda each: each[:2])
        del self.drawn[_DRAWN_ROWS:]


def _candidate(row: RenderedRow, length: int) -> _Candidate:
    sequences = tuple(_shorten([*_cut(sequence)]) for sequence in row.sequences)
    return _Candidate(row.number, length, row.tokens, row.supervised_tokens, sequences)


def _cut(sequence: RenderedSequence) -> Iterator[_Piece]:
    ids, mask = sequence.input_ids, sequence.is_supervised
    start = 0
    while start < len(mask):
        is_supervised = mask[start] == 1
        end = mask.find(b"\0" if is_supervised else b"\1", start)
        end = len(mask) if end < 0 else end
        half = _MAX_PIECE_TOKENS // 2
        if end - start <= _MAX_PIECE_TOKENS:
            yield _Piece(is_supervised, end - start, (ids[start:end],))
        else:
            yield _Piece(is_supervised, end - start, (ids[start : start + half], ids[end - half : end]))
        start = end


def _shorten(pieces: list[_Piece]) -> tuple[tuple[_Piece, ...], int]:
    left_out = max(0, len(pieces) - _MAX_PIECES)
    if not left_out:
        return tuple(pieces), 0
    return (*pieces[: _MAX_PIECES // 2], *pieces[-(_MAX_PIECES // 2) :]), left_out


def _show(which: Which, candidate: _Candidate, decode: Callable[[Sequence[int]], str]) -> Sample:
    names: tuple[Literal["preferred", "non_preferred"] | None, ...] = (None,)
    if len(candidate.sequences) == 2:
        names = ("preferred", "non_preferred")
    return Sample(
        which=which,
        row=candidate.row,
        tokens=candidate.tokens,
        supervised_tokens=candidate.supervised_tokens,
        sequences=tuple(
            SampleSequence(
                answer=name, pieces=tuple(_show_piece(piece, decode) for piece in pieces), left_out_pieces=left_out
            )
            for name, (pieces, left_out) in zip(names, candidate.sequences, strict=True)
        ),
    )


def _show_piece(piece: _Piece, decode: Callable[[Sequence[int]], str]) -> SamplePiece:
    texts = [decode(ids) for ids in piece.ids]
    shown = [text[:_MAX_PIECE_CHARACTERS] for text in texts]
    is_shortened = len(texts) > 1 or shown != texts
    return SamplePiece(
        text=" … ".join(shown) if len(shown) > 1 or not is_shortened else f"{shown[0]} …",
        is_supervised=piece.is_supervised,
        tokens=piece.tokens,
        is_shortened=is_shortened,
    )
