from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.batches.results import PartTaken, Progress, Result, ResultLog, Usage
from service.object_storage.filesystem import FilesystemStorage


@pytest.fixture
def results(tmp_path: Path) -> ResultLog:
    return ResultLog(FilesystemStorage(tmp_path), "batches/batch_1/")


def result(index: int, *, is_ok: bool = True) -> Result:
    return Result(index, is_ok, b'{"index": %d}' % index, Usage(input_tokens=10, output_tokens=index))


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def test_what_was_appended_is_known_after_a_restart(results: ResultLog) -> None:
    progress = await results.load(5)
    await results.append(progress, [result(3), result(0, is_ok=False)])
    await results.append(progress, [result(4)])
    for known in (progress, await results.load(5)):
        assert (known.parts, known.completed, known.failed, known.left) == (2, 2, 1, 2)
        assert [known.is_done(index) for index in range(5)] == [True, False, False, True, True]
        assert known.usage == Usage(input_tokens=30, output_tokens=7)
    assert await joined(results.lines(is_ok=True)) == b'{"index": 3}\n{"index": 4}\n'
    assert await joined(results.lines(is_ok=False)) == b'{"index": 0}\n'


async def test_of_two_that_both_believe_to_own_a_batch_one_is_stopped(results: ResultLog) -> None:
    first, second = await results.load(3), await results.load(3)
    await results.append(first, [result(0), result(1)])
    with pytest.raises(PartTaken):
        await results.append(second, [result(1), result(2)])
    assert (second.parts, second.completed) == (0, 0)
    await results.append(await results.load(3), [result(2)])
    assert await joined(results.lines(is_ok=True)) == b'{"index": 0}\n{"index": 1}\n{"index": 2}\n'


async def test_a_batch_that_nothing_came_of_has_an_empty_log(results: ResultLog) -> None:
    progress: Progress = await results.load(2)
    assert (progress.parts, progress.left) == (0, 2)
    assert await joined(results.lines(is_ok=True)) == b""
