"""`Idempotency-Key`: a POST that a client sends again answers what the first one answered, and makes nothing twice.

The key is taken inside the transaction that makes the rows, and the answer is kept in it: both are there or neither.
Whoever comes second with the same key waits at the database until the first has committed. A request that was refused
leaves nothing, so its key is free again.
"""

import hashlib
import re
import time
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.database.tables import IdempotencyKeyRow
from service.errors import Conflict, InvalidRequest
from service.polling import Polling

HEADER = "idempotency-key"
KEPT_FOR = timedelta(hours=24)
_SWEPT_EVERY = timedelta(hours=1)
_KEY_PATTERN = re.compile(r"[\x20-\x7e]{1,255}")


class Replayed(Exception):
    """Not an error: the answer of the first request with this key."""

    def __init__(self, status: int, answer: str) -> None:
        super().__init__(status)
        self.status = status
        self.answer = answer


@dataclass
class Idempotency:
    """One request that carries a key."""

    project_id: str
    key: str
    request_sha256: str
    has_secret_answer: bool
    """An answer that holds a secret is shown once and kept nowhere."""
    session: AsyncSession | None = None
    """The transaction that has taken the key."""

    async def take(self, session: AsyncSession, content: str = "") -> None:
        """First in the transaction. Raises Replayed, or Conflict when the key stands for another request.

        `content` stands for a body that was not read into memory.
        """
        self.request_sha256 = hashlib.sha256(f"{self.request_sha256}{content}".encode()).hexdigest()
        if not await self._insert(session):
            kept = await session.get_one(IdempotencyKeyRow, (self.project_id, self.key))
            if kept.request_sha256 != self.request_sha256:
                raise Conflict(
                    f"The Idempotency-Key '{self.key}' was used for another request in the last 24 hours. Take a new "
                    "key for a new request, or send the same request again.",
                    code="idempotency_key_in_use",
                )
            if kept.answer is None or kept.status is None:
                raise Conflict(
                    f"The request with the Idempotency-Key '{self.key}' was carried out. Its answer had a secret, "
                    "which is shown once and not kept. Delete what it made, and make it anew with another key.",
                    code="idempotency_key_in_use",
                )
            raise Replayed(kept.status, kept.answer)
        self.session = session

    async def keep(self, status: int, answer: bytes) -> None:
        """Last in the same transaction."""
        assert self.session is not None, "take() comes before keep()"
        values = {"status": status, "answer": None if self.has_secret_answer else answer.decode()}
        mine = (IdempotencyKeyRow.project_id == self.project_id, IdempotencyKeyRow.key == self.key)
        await self.session.execute(update(IdempotencyKeyRow).where(*mine).values(values))

    async def _insert(self, session: AsyncSession) -> bool:
        """False: the key is there. A transaction that has it but has not ended yet is waited for."""
        now = time.time()
        values = {"created_at": now, "request_sha256": self.request_sha256, "status": None, "answer": None}
        dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
        insert = dialect.insert(IdempotencyKeyRow).values(project_id=self.project_id, key=self.key, **values)
        inserted = await session.scalar(
            insert.on_conflict_do_update(
                index_elements=["project_id", "key"],
                set_=values,
                where=IdempotencyKeyRow.created_at < now - KEPT_FOR.total_seconds(),
            ).returning(IdempotencyKeyRow.key)
        )
        return inserted is not None


def checked_key(given: str) -> str:
    if not _KEY_PATTERN.fullmatch(given):
        raise InvalidRequest(
            "The header 'Idempotency-Key' takes 1 to 255 printable ASCII characters, a UUID for example.",
            param="Idempotency-Key",
        )
    return given


def request_sha256(method: str, path: str, body: bytes) -> str:
    return hashlib.sha256(b"\n".join((method.encode(), path.encode(errors="replace"), body))).hexdigest()


def key_sweeper(sessions: Sessions) -> Polling:
    async def sweep() -> None:
        oldest = time.time() - KEPT_FOR.total_seconds()
        async with sessions.begin() as session:
            await session.execute(delete(IdempotencyKeyRow).where(IdempotencyKeyRow.created_at < oldest))

    return Polling("the sweep of idempotency keys", sweep, _SWEPT_EVERY)
