"""Whether a storage does all that the service needs, tried out on objects of its own under `checks/`."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from service.object_storage.base import ObjectNotFound, ObjectStorage, StorageError, StoredObject

LARGE_BYTES = 9 * 1024 * 1024
"""More than one part of an S3 upload."""


@dataclass(frozen=True)
class Check:
    name: str
    failure: str | None
    """What is wrong and what to do; None: it works."""


class _Wrong(Exception):
    """It answered, and not as it should."""


async def run_checks(storage: ObjectStorage) -> AsyncIterator[Check]:
    """Each as it is done. When nothing can be written, the first one is the last."""
    trial = _Trial(storage, f"checks/{secrets.token_hex(8)}/")
    steps: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("write an object and read it", trial.write_and_read),
        ("read a part of an object", trial.read_part),
        ("tell a missing object", trial.miss),
        ("list objects", trial.list_objects),
        ("write an object in parts", trial.write_in_parts),
        ("put objects together", trial.put_together),
        ("write only what is not there yet (If-None-Match)", trial.write_once),
        ("delete an object and what is unfinished of it", trial.delete_one),
        ("delete many objects", trial.delete_all),
    ]
    for number, (name, step) in enumerate(steps):
        failure = await _failure_of(step)
        yield Check(name, failure)
        if number == 0 and failure is not None:
            return


async def _failure_of(step: Callable[[], Awaitable[None]]) -> str | None:
    try:
        await step()
    except StorageError as error:
        return f"{error}{_remedy(str(error))}"
    except _Wrong as error:
        return str(error)
    return None


def _remedy(message: str) -> str:
    known = {
        "NoSuchBucket": "make the bucket first; the service does not",
        "AccessDenied": "the credentials need more rights: docs/storage.md has the policies",
        "(403)": "the credentials need more rights: docs/storage.md has the policies",
        "InvalidAccessKeyId": "AWS_ACCESS_KEY_ID is not known to this server",
        "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is wrong, or FETTLE_S3_REGION is another one",
        "Could not connect": "FETTLE_S3_ENDPOINT_URL must name the server",
        "PermanentRedirect": "FETTLE_S3_REGION must be the bucket's region",
        "AuthorizationHeaderMalformed": "FETTLE_S3_REGION must be the bucket's region",
        "Could not resolve host": "try FETTLE_S3_ADDRESSING_STYLE=path",
    }
    return next((f". What to do: {remedy}" for word, remedy in known.items() if word in message), "")


class _Trial:
    def __init__(self, storage: ObjectStorage, folder: str) -> None:
        self._storage = storage
        self._folder = folder
        self._small = secrets.token_bytes(1000)
        self._large = secrets.token_bytes(LARGE_BYTES)

    async def write_and_read(self) -> None:
        await self._storage.put_bytes(self._key("small"), self._small)
        await self._expect("small", self._small)

    async def read_part(self) -> None:
        part = b"".join([piece async for piece in self._storage.get(self._key("small"), 10, 20)])
        if part != self._small[10:20]:
            raise _Wrong("it answered with other bytes than the range that was asked for")

    async def miss(self) -> None:
        if await self._storage.head(self._key("missing")) is not None:
            raise _Wrong("it has an object that nobody wrote")
        try:
            await self._storage.get_bytes(self._key("missing"))
        except ObjectNotFound:
            return
        raise _Wrong("it answered for an object that is not there")

    async def list_objects(self) -> None:
        found = [each async for each in self._storage.list(self._folder)]
        if found != [StoredObject(self._key("small"), len(self._small))]:
            raise _Wrong(f"it lists {len(found)} objects where there is one of {len(self._small)} bytes")

    async def write_in_parts(self) -> None:
        await self._storage.put(self._key("large"), _once(self._large))
        await self._expect("large", self._large)

    async def put_together(self) -> None:
        sources = [StoredObject(self._key("large"), LARGE_BYTES), StoredObject(self._key("small"), len(self._small))]
        await self._storage.concatenate(self._key("both"), sources)
        await self._expect("both", self._large + self._small)

    async def write_once(self) -> None:
        if not await self._storage.put_bytes(self._key("once"), b"first", if_absent=True):
            raise _Wrong("it refused an object that was not there")
        if await self._storage.put_bytes(self._key("once"), b"second", if_absent=True):
            raise _Wrong("it replaced an object that was there; it needs a version that knows `If-None-Match: *`")
        await self._expect("once", b"first")

    async def delete_one(self) -> None:
        await self._storage.discard(self._key("small"))
        if await self._storage.head(self._key("small")) is not None:
            raise _Wrong("the object is still there")

    async def delete_all(self) -> None:
        await self._storage.delete_prefix(self._folder)
        if left := [each.key async for each in self._storage.list(self._folder)]:
            raise _Wrong(f"{len(left)} objects are still there")

    async def _expect(self, name: str, content: bytes) -> None:
        if await self._storage.get_bytes(self._key(name)) != content:
            raise _Wrong("it answered with other bytes than were written")

    def _key(self, name: str) -> str:
        return f"{self._folder}{name}"


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content
