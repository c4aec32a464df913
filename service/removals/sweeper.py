"""The sweeper: one step ends what is over its time and removes from storage what no row names any more.

Every step is safe to repeat. Several services on one database share the work.
"""

import logging
from datetime import timedelta

from service.database.engine import Sessions
from service.files.files import expire_files
from service.object_storage.base import ObjectStorage, StorageError
from service.polling import Polling
from service.removals.repository import claim_due, forget
from service.uploads.uploads import expire_uploads

log = logging.getLogger(__name__)

INTERVAL = timedelta(seconds=2)
BATCH = 100  # rows a transaction: SQLite has one writer at a time


def sweeper(sessions: Sessions, storage: ObjectStorage) -> Polling:
    return Polling("the sweeper", lambda: sweep(sessions, storage), INTERVAL)


async def sweep(sessions: Sessions, storage: ObjectStorage) -> None:
    await _expire(sessions)
    while True:
        async with sessions.begin() as session:
            keys = await claim_due(session, BATCH)
        if not keys:
            return
        removed = [key for key in keys if await _is_removed(storage, key)]
        async with sessions.begin() as session:
            await forget(session, removed)


async def _expire(sessions: Sessions) -> None:
    for expire in (expire_files, expire_uploads):
        is_full = True
        while is_full:
            async with sessions.begin() as session:
                is_full = await expire(session, BATCH) == BATCH


async def _is_removed(storage: ObjectStorage, key: str) -> bool:
    try:
        if key.endswith("/"):
            await storage.delete_prefix(key)
        else:
            await storage.discard(key)
    except StorageError as error:  # one that cannot be removed now does not keep the others
        log.warning("%s could not be removed and is tried again: %s", key, error)
        return False
    return True
