"""What endpoints are given: a session that commits before the answer goes out, and the parts that `app.py` wired."""

from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends, Request
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from service.batches.loop import BatchRunner
from service.database.engine import Sessions
from service.dispatcher.loop import Dispatcher
from service.idempotency import Idempotency
from service.inference.engines import Engines
from service.object_storage.base import ObjectStorage
from service.settings import Settings
from service.webhooks.sending import Sender
from tuning.catalogue import Catalogue


class Wake:
    """Tells a background loop of this process that there is work, once the row that says so is committed.

    Where the loop runs in another process nobody is told: it finds the row at its next look.
    """

    def __init__(self, loop: Dispatcher | BatchRunner | None) -> None:
        self._loop = loop

    def after_commit(self, session: AsyncSession) -> None:
        if (loop := self._loop) is not None:
            event.listen(session.sync_session, "after_commit", lambda _: loop.wake(), once=True)


async def open_session(request: Request) -> AsyncIterator[AsyncSession]:
    idempotency: Idempotency | None = request.state.idempotency
    async with _sessions(request).begin() as session:
        if idempotency is not None:
            await idempotency.take(session)
        yield session


def given_idempotency(request: Request) -> Idempotency | None:
    return cast(Idempotency | None, request.state.idempotency)


def _sessions(request: Request) -> Sessions:
    return cast(Sessions, request.app.state.sessions)


def _settings(request: Request) -> Settings:
    return cast(Settings, request.app.state.settings)


def _catalogue(request: Request) -> Catalogue:
    return cast(Catalogue, request.app.state.catalogue)


def _storage(request: Request) -> ObjectStorage:
    return cast(ObjectStorage, request.app.state.storage)


def _engines(request: Request) -> Engines | None:
    return cast(Engines | None, request.app.state.vllm)


def _wake(request: Request) -> Wake:
    return Wake(cast(Dispatcher | None, request.app.state.dispatcher))


def _wake_batches(request: Request) -> Wake:
    return Wake(cast(BatchRunner | None, request.app.state.batches))


def _webhook_sender(request: Request) -> Sender:
    return cast(Sender, request.app.state.webhook_sender)


Session = Annotated[AsyncSession, Depends(open_session, scope="function")]
"""One request, one transaction; committed before the answer is sent (FastAPI's default scope commits after it)."""

NewSessions = Annotated[Sessions, Depends(_sessions)]
"""For endpoints that stream: no transaction is open while bytes flow."""

ConfiguredSettings = Annotated[Settings, Depends(_settings)]
LoadedCatalogue = Annotated[Catalogue, Depends(_catalogue)]
Storage = Annotated[ObjectStorage, Depends(_storage)]
ServingEngines = Annotated[Engines | None, Depends(_engines)]
"""None: nothing is served here."""
Waker = Annotated[Wake, Depends(_wake)]
BatchWaker = Annotated[Wake, Depends(_wake_batches)]
WebhookSender = Annotated[Sender, Depends(_webhook_sender)]
GivenIdempotency = Annotated[Idempotency | None, Depends(given_idempotency)]
"""For endpoints that stream: theirs to take in the transaction that makes the rows. `Session` does it by itself."""
