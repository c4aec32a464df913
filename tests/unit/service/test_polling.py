"""Background work that outlives its own errors ends when it is told to."""

import asyncio
from contextlib import suppress
from datetime import timedelta

from service.polling import Polling, cancel_all


async def test_a_step_that_keeps_a_cancellation_to_itself_is_the_last_one() -> None:
    """As a driver does whose connection fails in that moment, and `asyncio.wait_for` of Python 3.11."""
    steps, begun = 0, asyncio.Event()

    async def step() -> None:
        nonlocal steps
        steps += 1
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        raise OSError("the connection was lost")

    loop = asyncio.create_task(Polling("the test", step, timedelta(hours=1)).run())
    await begun.wait()
    async with asyncio.timeout(10):
        await cancel_all([loop])
    assert steps == 1
    assert loop.done()


async def test_a_step_that_fails_is_taken_again() -> None:
    steps, enough = 0, asyncio.Event()

    async def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            enough.set()
        raise OSError("the database is away")

    loop = asyncio.create_task(Polling("the test", step, timedelta(0)).run())
    async with asyncio.timeout(10):
        await enough.wait()
        await cancel_all([loop])
    assert loop.done()
