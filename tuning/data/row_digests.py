"""Which rows are the same, found by eight bytes of a digest: 16 bytes of memory a row, so 16 MB for a million.

Two different rows are taken for the same with a chance of one in 30 million for a file of a million rows.
"""

import secrets
from array import array
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from tuning.data.findings import RowPairs
from tuning.data.rendering import RenderedRow

_DIGEST_BYTES = 8
_BUCKET_BITS = 10
"""So that the dictionary, which is made for one bucket after the other, stays small."""
_SALT = secrets.randbits(64) | 1
"""So that nobody can write rows that all fall into one bucket."""
_MASK = (1 << 64) - 1


def row_digest(row: RenderedRow) -> int:
    """Of its token ids and its note: of all but what is supervised in it."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for sequence in row.sequences:
        digest.update(len(sequence.input_ids).to_bytes(4, "little"))
        digest.update(sequence.input_ids)
    digest.update(row.note)
    return int.from_bytes(digest.digest(), "little")


class RowDigests:
    """Of the trained rows of one file."""

    def __init__(self) -> None:
        self._buckets = [(array("Q"), array("Q")) for _ in range(1 << _BUCKET_BITS)]
        """Row numbers, and their digests."""

    def extend(self, numbers: Iterable[int], digests: Iterable[int]) -> None:
        """Rows come in the file's order."""
        buckets = self._buckets
        for number, digest in zip(numbers, digests, strict=True):
            of_numbers, of_digests = buckets[(digest * _SALT & _MASK) >> (64 - _BUCKET_BITS)]
            of_numbers.append(number)
            of_digests.append(digest)

    def repeated(self) -> RowPairs:
        """Rows that an earlier row has said already, each with the first that did."""
        return RowPairs.first_of(self._find_repeated())

    def shared_with(self, others: "RowDigests") -> RowPairs:
        """Rows that the other file has too, each with the first such row there."""
        return RowPairs.first_of(self._find_shared(others))

    def _find_repeated(self) -> Iterator[tuple[int, int]]:
        for numbers, digests in self._buckets:
            first: dict[int, int] = {}
            for number, digest in zip(numbers, digests, strict=True):
                earlier = first.setdefault(digest, number)
                if earlier != number:
                    yield number, earlier

    def _find_shared(self, others: "RowDigests") -> Iterator[tuple[int, int]]:
        for (numbers, digests), (other_numbers, other_digests) in zip(self._buckets, others._buckets, strict=True):
            first: dict[int, int] = {}
            for number, digest in zip(other_numbers, other_digests, strict=True):
                first.setdefault(digest, number)
            for number, digest in zip(numbers, digests, strict=True):
                if (other := first.get(digest)) is not None:
                    yield number, other
