"""What is known of executions without asking: their Jobs, pods and events, and who wants to hear that they changed."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from service.executors.base import Execution, ExecutorUnavailable, OnChange
from service.executors.kubernetes_api import EVENTS, JOB_SETS, JOBS, PODS, KubernetesApi
from service.executors.kubernetes_manifest import Manifest, execution_of, instance_selector, object_name
from service.executors.kubernetes_objects import true_condition
from service.executors.kubernetes_settings import KubernetesSettings
from service.executors.kubernetes_watch import WatchedObjects
from service.ids import JOB_ID_PATTERN

log = logging.getLogger(__name__)

_SYNC_SECONDS = 15
"""How long a look at an execution waits for the first list."""
_BATCH_SECONDS = 0.1
_PAUSE_AFTER_ERROR_SECONDS = 1.0
_MOST_EVENTS = 50
"""Of one execution."""

_OBJECT_OF_EXECUTION = re.compile(rf"{JOB_ID_PATTERN.pattern}-\d+", re.IGNORECASE)
"""In the names of everything that is made for an execution: Jobs, pods, and Kueue's Workloads (`job-…-1-3f9d1`)."""


@dataclass(frozen=True)
class Known:
    """Of one execution."""

    job: Manifest | None
    """The Job or JobSet."""
    pods: list[Manifest]
    events: list[Manifest]

    @property
    def is_ended(self) -> bool:
        return self.job is not None and true_condition(self.job, "Complete", "Completed", "Failed") is not None

    @property
    def running_pods(self) -> list[Manifest]:
        """Those that have not ended, also those that wait for a place, and those where only a sidecar runs on."""
        return [pod for pod in self.pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]


class WatchedCluster:
    def __init__(
        self, api: KubernetesApi, settings: KubernetesSettings, describe: Callable[[Known], Execution]
    ) -> None:
        selector = instance_selector(settings)
        self._describe = describe
        self._jobs = WatchedObjects(
            api, JOBS, selector, group_of=_execution_of_root, slim=_slim_job, on_change=self._changed
        )
        self._pods = WatchedObjects(api, PODS, selector, group_of=execution_of, slim=_slim_pod, on_change=self._changed)
        self._events = WatchedObjects(
            api,
            EVENTS,
            None,  # events have no labels
            group_of=_object_of_event,
            slim=_slim_event,
            on_change=self._event_changed,
            most_in_group=_MOST_EVENTS,
        )
        self._watched = [self._jobs, self._pods, self._events]
        self._job_sets: WatchedObjects | None = None
        if settings.multi_node == "JobSet":
            self._job_sets = WatchedObjects(
                api, JOB_SETS, selector, group_of=_execution_of_root, slim=_slim_job_set, on_change=self._changed
            )
            self._watched.append(self._job_sets)
        self._told: dict[str, Execution] = {}
        self._executions: dict[str, str] = {}
        """By the name of their Job."""
        self._to_tell: set[str] = set()
        self._something_changed = asyncio.Event()

    @property
    def is_watched(self) -> bool:
        return all(watched.is_synced for watched in self._watched)

    @property
    def trouble(self) -> ExecutorUnavailable | None:
        return next((watched.trouble for watched in self._watched if watched.trouble is not None), None)

    async def wait_synced(self) -> None:
        """Raises ExecutorUnavailable."""
        if self.is_watched:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_SYNC_SECONDS):
                for watched in self._watched:
                    await watched.wait_settled()
        if not self.is_watched:
            raise self.trouble or ExecutorUnavailable(
                "What runs in Kubernetes is not known yet: the first list is under way. It is looked at again"
            )

    def known(self, name: str) -> Known:
        root = next(iter(self._jobs.group(name)), None)
        if root is None and self._job_sets is not None:
            root = next(iter(self._job_sets.group(name)), None)
        return Known(root, list(self._pods.group(name)), list(self._events.group(object_name(name))))

    def put_root(self, root: Manifest) -> None:
        """A Job or JobSet that a call returned."""
        if root["kind"] == "Job":
            self._jobs.put(root)
        elif self._job_sets is not None:
            self._job_sets.put(root)

    def put_pods(self, pods: Iterable[Manifest]) -> None:
        for pod in pods:
            self._pods.put(pod)

    def drop_root(self, name: str) -> None:
        """It was deleted; the watch tells so a moment later."""
        self._jobs.drop(name)
        if self._job_sets is not None:
            self._job_sets.drop(name)

    async def watch(self, on_change: OnChange) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for watched in self._watched:
                tasks.create_task(watched.run(), name=f"the watch of {watched.resource}")
            tasks.create_task(self._tell(on_change), name="changes in Kubernetes")

    # --- changes --------------------------------------------------------------------------------------------------

    def _changed(self, name: str) -> None:
        self._executions[object_name(name)] = name
        self._to_tell.add(name)
        self._something_changed.set()

    def _event_changed(self, root: str) -> None:
        if (name := self._executions.get(root)) is not None:  # else its Job is told in a moment, and with it the event
            self._changed(name)

    async def _tell(self, on_change: OnChange) -> None:
        for watched in self._watched:
            await watched.wait_synced()
        while True:
            await self._something_changed.wait()
            await asyncio.sleep(_BATCH_SECONDS)
            self._something_changed.clear()
            names, self._to_tell = self._to_tell, set()
            seen = {name: self._look(name) for name in names}
            news = [name for name in names if seen[name] != self._told.get(name)]
            if not news:
                continue
            try:
                await on_change(news)
            except Exception:  # the database may be away for a while; the watches outlive that
                log.exception("changes of %d executions could not be told; they are told again", len(news))
                self._to_tell.update(news)
                self._something_changed.set()
                await asyncio.sleep(_PAUSE_AFTER_ERROR_SECONDS)
                continue
            for name in news:
                self._remember(name, seen[name])

    def _look(self, name: str) -> Execution | None:
        known = self.known(name)
        return self._describe(known) if known.job is not None or known.pods else None

    def _remember(self, name: str, told: Execution | None) -> None:
        if told is not None:
            self._told[name] = told
            return
        self._told.pop(name, None)
        self._executions.pop(object_name(name), None)
        self._events.drop(object_name(name))


# --- what objects belong to, and what is kept of them: thousands of them are held in memory -------------------------


def _execution_of_root(item: Manifest) -> str | None:
    """Not of the Jobs that a JobSet is made of."""
    return None if item["metadata"].get("ownerReferences") else execution_of(item)


def _object_of_event(event: Manifest) -> str | None:
    match = _OBJECT_OF_EXECUTION.search(event["involvedObject"].get("name") or "")
    return None if match is None else match[0]


def _slim_job(item: Manifest) -> Manifest:
    keys = ("suspend", "completions", "backoffLimit", "backoffLimitPerIndex", "activeDeadlineSeconds")
    return {
        "kind": "Job",  # lists leave it out
        "metadata": _slim_metadata(item),
        "spec": _only(item.get("spec", {}), *keys),
        "status": item.get("status", {}),
    }


def _slim_job_set(item: Manifest) -> Manifest:
    return {
        "kind": "JobSet",
        "metadata": _slim_metadata(item),
        "spec": _only(item.get("spec", {}), "suspend"),
        "status": item.get("status", {}),
    }


def _slim_pod(item: Manifest) -> Manifest:
    spec, status = item.get("spec", {}), item.get("status", {})
    containers = ("initContainerStatuses", "containerStatuses")
    return {
        "metadata": _slim_metadata(item),
        "spec": _only(spec, "nodeName", "activeDeadlineSeconds") | {"containers": _slim_containers(spec)},
        "status": _only(status, "phase", "reason", "message", "startTime", "conditions")
        | {key: [_slim_status(container) for container in status[key]] for key in containers if key in status},
    }


def _slim_event(item: Manifest) -> Manifest:
    about = _only(item["involvedObject"], "kind", "name")
    keys = ("type", "reason", "message", "count", "firstTimestamp", "lastTimestamp", "eventTime", "series")
    return {"metadata": _slim_metadata(item), "involvedObject": about} | _only(item, *keys)


def _slim_metadata(item: Manifest) -> Manifest:
    keys = ("name", "uid", "resourceVersion", "labels", "creationTimestamp", "deletionTimestamp")
    return _only(item["metadata"], *keys)


def _slim_containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [_only(container, "name", "image", "resources") for container in pod.get("containers", [])]


def _slim_status(container: dict[str, Any]) -> dict[str, Any]:
    return _only(container, "name", "image", "state", "lastState", "restartCount", "ready")


def _only(source: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: source[key] for key in keys if key in source}
