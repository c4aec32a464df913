"""Several objects, one after the other, cut into pieces of one size."""

import random

from service.object_storage.base import StoredObject
from service.object_storage.streaming import Range, piece_ranges


def cut(sizes: list[int], size: int) -> list[list[Range]]:
    sources = [StoredObject(str(number), each) for number, each in enumerate(sizes)]
    return [list(piece) for piece in piece_ranges(sources, size)]


def test_a_piece_may_end_in_an_object_and_have_several() -> None:
    assert cut([3, 0, 1, 9], 5) == [
        [Range("0", 0, 3), Range("2", 0, 1), Range("3", 0, 1)],
        [Range("3", 1, 6)],
        [Range("3", 6, 9)],
    ]
    assert cut([5, 5], 5) == [[Range("0", 0, 5)], [Range("1", 0, 5)]]
    assert cut([], 5) == cut([0], 5) == []


def test_all_bytes_are_there_once_and_in_order_whatever_the_sizes() -> None:
    chance = random.Random(7)
    for _ in range(300):
        sizes = [chance.choice([0, 1, 2, 3, 10, 100]) for _ in range(chance.randrange(12))]
        size = chance.randrange(1, 30)
        pieces = cut(sizes, size)
        places = [(each.key, place) for piece in pieces for each in piece for place in range(each.start, each.end)]
        assert places == [(str(number), place) for number, each in enumerate(sizes) for place in range(each)]
        lengths = [sum(each.end - each.start for each in piece) for piece in pieces]
        assert all(length == size for length in lengths[:-1])
        assert all(0 < length <= size for length in lengths[-1:])
