"""An object whose row is still to come: its key is on record before its bytes, so that nothing is left for ever."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.errors import InvalidRequest
from service.removals import repository

log = logging.getLogger(__name__)

TIME_TO_ARRIVE = timedelta(hours=24)
"""From a request's first byte to its row; longer ones are taken for dead."""


class NewObject:
    def __init__(self, key: str) -> None:
        self.key = key
        self.due_at = time.time() + TIME_TO_ARRIVE.total_seconds()
        self.is_kept = False

    async def keep(self, session: AsyncSession) -> None:
        """To be called in the transaction that makes the object's row."""
        if not await repository.take_back(session, self.key, self.due_at):
            hours = TIME_TO_ARRIVE // timedelta(hours=1)
            raise InvalidRequest(
                f"The upload took longer than {hours} hours and was given up. Send it again, in parts."
            )
        self.is_kept = True


@asynccontextmanager
async def new_object(sessions: Sessions, key: str) -> AsyncIterator[NewObject]:
    """Its bytes are removed, soon after the block, unless `keep` was committed."""
    new = NewObject(key)
    async with sessions.begin() as session:
        repository.add_removals(session, [key], due_at=new.due_at)
    try:
        yield new
    except BaseException:
        new.is_kept = False
        raise
    finally:
        if not new.is_kept:
            await _make_due(sessions, key)


async def _make_due(sessions: Sessions, key: str) -> None:
    try:
        async with sessions.begin() as session:
            await repository.make_due(session, key)
    except Exception:  # what happened before is the error to raise; this one only means that it is removed later
        log.exception("%s is removed in %s only", key, TIME_TO_ARRIVE)
