"""What Kubernetes has of ours, kept up to date by one list and one watch for each kind, however many there are."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from service.executors.base import ExecutorUnavailable
from service.executors.kubernetes_api import KubernetesApi, KubernetesRefused, Resource
from service.executors.kubernetes_manifest import Manifest

log = logging.getLogger(__name__)

WATCH_TIME = timedelta(seconds=60)
"""Then the server ends a watch, and the next one goes on from there: so a connection that died unnoticed costs a minute
at most, and a token that was replaced is taken up."""
_IDLE_MARGIN = timedelta(seconds=10)
_PAGE_OBJECTS = 500
_SHORT_SECONDS = 1.0  # of a watch
_FIRST_PAUSE = 0.1  # seconds; doubled with each failure in a row
_LONGEST_PAUSE = 5.0
_FAILURES_BEFORE_LISTING = 3  # after a restore from a backup the server waits for a version that never comes

GroupOf = Callable[[Manifest], str | None]


class WatchedObjects:
    """One kind. Read it from the event loop that runs it."""

    def __init__(
        self,
        api: KubernetesApi,
        resource: Resource,
        selector: str | None,
        *,
        group_of: GroupOf,
        slim: Callable[[Manifest], Manifest],
        on_change: Callable[[str], None],
        most_in_group: int | None = None,
    ) -> None:
        """`selector`: of labels. `group_of`: what an object is kept under; None: it is not kept. `slim`: what of it is
        kept. `on_change` is told the group. `most_in_group`: then the one that came first is dropped."""
        self.resource = resource
        self._api = api
        self._selector = {"labelSelector": selector} if selector else {}
        self._group_of = group_of
        self._slim = slim
        self._on_change = on_change
        self._most_in_group = most_in_group
        self._groups: dict[str, dict[str, Manifest]] = {}
        self._version: str | None = None
        """Of the collection, from which the next watch goes on; None: it has to be listed."""
        self._synced = asyncio.Event()
        self._settled = asyncio.Event()
        self.trouble: ExecutorUnavailable | None = None
        """Why it may not be up to date."""

    @property
    def is_synced(self) -> bool:
        """Whether it was ever read whole."""
        return self._synced.is_set()

    def group(self, name: str) -> Collection[Manifest]:
        return self._groups.get(name, {}).values()

    async def wait_synced(self) -> None:
        await self._synced.wait()

    async def wait_settled(self) -> None:
        """Until it is synced, or there is trouble."""
        await self._settled.wait()

    def put(self, item: Manifest) -> None:
        """What a call of ours returned, unless the watch knows better."""
        group, uid = self._group_of(item), item["metadata"]["uid"]
        known = self._groups.get(group or "", {}).get(uid)
        if known is not None:
            if not _is_older(_version(item), _version(known)):
                self._keep(item)
        elif self._version is None or not _is_older(_version(item), self._version):
            self._keep(item)
        # else: the watch is past it and does not have it, so that it is deleted

    def drop(self, group: str) -> None:
        if self._groups.pop(group, None) is not None:
            self._on_change(group)

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        try:
            while True:
                began = time.monotonic()
                try:
                    await self._list_and_watch()
                except ExecutorUnavailable as error:
                    trouble: ExecutorUnavailable | None = error
                except (ValueError, KeyError, TypeError) as error:
                    trouble = ExecutorUnavailable(f"What answers for {self.resource} is not Kubernetes' API: {error!r}")
                else:
                    trouble = None
                was_short = time.monotonic() - began < _SHORT_SECONDS  # a server that hangs up at once is not well
                failures = (failures if was_short else 0) + (was_short or trouble is not None)
                if trouble is not None:
                    self._note(trouble, failures)
                if failures:
                    await asyncio.sleep(min(_FIRST_PAUSE * 2 ** min(failures - 1, 10), _LONGEST_PAUSE))
        finally:
            self._synced.clear()
            self._settled.clear()
            self._version = None

    async def _list_and_watch(self) -> None:
        if self._version is None:
            self._version = await self._list()
            self.trouble = None
            self._synced.set()
            self._settled.set()
        async with aclosing(self._changes(self._version)) as changes:
            async for kind, item in changes:
                self._version = _version(item)
                if kind in ("ADDED", "MODIFIED"):
                    self._keep(item)
                elif kind == "DELETED":
                    self._remove(item)

    def _note(self, error: ExecutorUnavailable, failures: int) -> None:
        if isinstance(error, KubernetesRefused) and error.status == 410:
            log.info("the watch of %s has expired: they are listed again", self.resource)
            self._version = None
            return
        if failures >= _FAILURES_BEFORE_LISTING:
            self._version = None
        if self.trouble is None:
            log.warning("%s are no longer watched: %s", self.resource, error)
        self.trouble = error
        self._settled.set()

    async def _list(self) -> str:
        found: dict[str, dict[str, Manifest]] = {}
        query: dict[str, str | int] = {**self._selector, "limit": _PAGE_OBJECTS}
        while True:
            page = await self._api.request("list", self.resource, query=query)
            for item in page["items"]:
                if (group := self._group_of(item)) is not None:
                    found.setdefault(group, {})[item["metadata"]["uid"]] = self._slim(item)
            if not (more := page["metadata"].get("continue")):
                break
            query["continue"] = more
        before, self._groups = self._groups, found
        for group in before.keys() | found.keys():
            if _versions(before.get(group, {})) != _versions(found.get(group, {})):
                self._on_change(group)
        version: str = page["metadata"]["resourceVersion"]
        return version

    async def _changes(self, version: str) -> AsyncGenerator[tuple[str, Manifest], None]:
        query: dict[str, str | int] = {
            **self._selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": int(WATCH_TIME.total_seconds()),
        }
        idle_seconds = (WATCH_TIME + _IDLE_MARGIN).total_seconds()
        async with self._api.watch(self.resource, query, idle_seconds) as lines:
            if self.trouble is not None:
                log.info("%s are watched again", self.resource)
                self.trouble = None
            async for line in lines:
                change: dict[str, Any] = json.loads(line)
                item = change["object"]
                if change["type"] == "ERROR":
                    message = f"Kubernetes ended the watch of {self.resource}: {item.get('message')}. It is begun again"
                    raise KubernetesRefused(message, int(item.get("code") or 0), str(item.get("reason")), None)
                yield change["type"], item

    def _keep(self, item: Manifest) -> None:
        if (group := self._group_of(item)) is not None:
            members = self._groups.setdefault(group, {})
            members[item["metadata"]["uid"]] = self._slim(item)
            if self._most_in_group is not None and len(members) > self._most_in_group:
                del members[next(iter(members))]
            self._on_change(group)

    def _remove(self, item: Manifest) -> None:
        group = self._group_of(item)
        if group is None or self._groups.get(group, {}).pop(item["metadata"]["uid"], None) is None:
            return
        if not self._groups[group]:
            del self._groups[group]
        self._on_change(group)


def _version(item: Manifest) -> str:
    version: str = item["metadata"]["resourceVersion"]
    return version


def _is_older(version: str, other: str) -> bool:
    """Versions are numbers that grow, in every API server there is; Kubernetes promises it since 1.35."""
    return version.isdecimal() and other.isdecimal() and int(version) < int(other)


def _versions(group: dict[str, Manifest]) -> dict[str, str]:
    return {uid: _version(item) for uid, item in group.items()}
