"""Trainers as Kubernetes Jobs. What runs is watched, never polled; calls are made to start, to stop, and for logs."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path

from service.executors.base import Execution, ExecutionLog, ExecutorUnavailable, Launch, OnChange
from service.executors.kubernetes_api import (
    JOB_SETS,
    JOBS,
    NODES,
    PODS,
    SERVICES,
    KubernetesApi,
    KubernetesRefused,
    Query,
    Resource,
)
from service.executors.kubernetes_cluster import Known, WatchedCluster
from service.executors.kubernetes_manifest import (
    INSTANCE_LABEL,
    Manifest,
    execution_of,
    execution_selector,
    manifests,
    object_name,
    owned_by,
)
from service.executors.kubernetes_objects import LargestNode, container_state, false_condition, largest_node
from service.executors.kubernetes_pod import CONTAINER_NAME
from service.executors.kubernetes_reasons import describe
from service.executors.kubernetes_settings import KubernetesSettings, KubernetesSettingsError

log = logging.getLogger(__name__)

_RESOURCES = {"Job": JOBS, "JobSet": JOB_SETS, "Service": SERVICES}
_STOP_MARGIN = timedelta(seconds=20)
"""After the grace: until a kubelet has killed a container and told so."""
_STOP_LOOK_SECONDS = 0.1
_NODES_FRESH = timedelta(minutes=1)
_CHECK_FRESH = timedelta(seconds=5)
_TAIL_LINES = 100
_TAIL_BYTES = 4000
_MOST_TAIL_BYTES = 1024 * 1024  # what is read to find the tail: lines may be long


class KubernetesExecutor:
    def __init__(
        self,
        settings: KubernetesSettings,
        cancel_grace: timedelta,
        environment: Mapping[str, str],
        kubeconfig: Path | None = None,
    ) -> None:
        """`environment`: of trainers, nothing secret. `kubeconfig`: default is the service account of our own pod;
        where there is none, what KUBECONFIG names."""
        self._settings = settings
        self._cancel_grace = cancel_grace
        self._environment = environment
        self._api = KubernetesApi(settings.namespace, kubeconfig)
        self._cluster = WatchedCluster(self._api, settings, self._describe)
        self._largest_node: LargestNode | None = None
        self._nodes_read_at = -_NODES_FRESH.total_seconds()
        self._checked_at = -_CHECK_FRESH.total_seconds()
        self._check_failure: ExecutorUnavailable | None = None
        self._checking = asyncio.Lock()

    @property
    def calls(self) -> Counter[str]:
        """Requests to the API server so far, by verb and resource."""
        return self._api.calls

    async def close(self) -> None:
        await self._api.close()

    # --- start and stop -------------------------------------------------------------------------------------------

    async def start(self, launch: Launch) -> None:
        try:
            root, *others = manifests(launch, self._settings, self._environment)
        except KubernetesSettingsError as error:
            raise ExecutorUnavailable(f"Training pods cannot be made: {error}") from error
        created = root | await self._create(root)  # with kind and apiVersion, which owners are named by
        self._cluster.put_root(created)
        for manifest in others:
            await self._create(owned_by(created, manifest))

    async def _create(self, manifest: Manifest) -> Manifest:
        """Finds the first."""
        resource, name = _RESOURCES[manifest["kind"]], manifest["metadata"]["name"]
        try:
            return await self._api.request("create", resource, body=manifest)
        except KubernetesRefused as refused:
            if refused.reason != "AlreadyExists":
                raise
        found = await self._api.request("get", resource, name)
        what = f"{manifest['kind']} {name} in namespace {found['metadata']['namespace']}"
        if _identity(found) != _identity(manifest):
            raise ExecutorUnavailable(f"{what} is in the way: it is not of this installation. Delete it")
        if "deletionTimestamp" in found["metadata"]:
            raise ExecutorUnavailable(f"{what} is still being deleted. It is made again when it is gone")
        return found

    async def interrupt(self, name: str) -> None:
        # Its pods get SIGTERM and as long as their manifest says. A suspended Job would do the same and stay behind.
        await self._delete_root(name)

    async def stop(self, name: str) -> None:
        await self._cluster.wait_synced()
        await self._delete_root(name)
        if not await self._pods_end(name):
            await self._force(name)
        self._cluster.drop_root(name)

    async def _delete_root(self, name: str) -> None:
        """Kubernetes then deletes its pods, and its Service."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        for resource in self._root_resources(name):
            try:
                await self._api.request("delete", resource, object_name(name), body=body)
            except KubernetesRefused as refused:
                if refused.status != 404:
                    raise
            else:
                return

    async def _pods_end(self, name: str) -> bool:
        """Within the grace and a margin, as the watch tells. Each is told once, with the grace of a job that nobody
        wants any more: Kubernetes alone would give it the longer one of its manifest."""
        deadline = time.monotonic() + (self._cancel_grace + _STOP_MARGIN).total_seconds()
        told: set[str] = set()
        while running := self._cluster.known(name).running_pods:
            if time.monotonic() > deadline:
                return False
            for pod in running:
                if pod["metadata"]["uid"] not in told:
                    told.add(pod["metadata"]["uid"])
                    await self._delete_pod(pod, self._cancel_grace)
            await asyncio.sleep(_STOP_LOOK_SECONDS)
        return True

    async def _force(self, name: str) -> None:
        """A node that is dead tells nothing any more, and its pods would stay for ever. If it only was cut off, its
        trainer goes on for a while: what it writes then is refused, as somebody else's parts are there."""
        for pod in Known(None, await self._list_pods(name), []).running_pods:
            log.warning(
                "pod %s of %s outlived its grace and is removed without the word of its node %s",
                pod["metadata"]["name"],
                name,
                pod["spec"].get("nodeName"),
            )
            await self._delete_pod(pod, timedelta(0))

    async def _delete_pod(self, pod: Manifest, grace: timedelta) -> None:
        """By name: to delete by labels makes the API server read every pod of the namespace."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": int(grace.total_seconds())}
        try:
            await self._api.request("delete", PODS, pod["metadata"]["name"], body=body)
        except KubernetesRefused as refused:
            if refused.status != 404:
                raise

    # --- what is known --------------------------------------------------------------------------------------------

    async def observe(self, name: str) -> Execution:
        await self._cluster.wait_synced()
        known = self._cluster.known(name)
        if known.job is None and not known.pods:
            await self._look_for_root(name)
        elif known.is_ended and known.job is not None and not _tells_how_it_ended(known):
            self._cluster.put_pods(await self._list_pods(name))  # the watch of pods is behind that of Jobs
        known = self._cluster.known(name)
        if self._settings.can_read_nodes and any(_is_unschedulable(pod) for pod in known.pods):
            await self._read_nodes()
        return self._describe(known)

    async def watch(self, on_change: OnChange) -> None:
        await self._cluster.watch(on_change)

    async def check(self) -> None:
        if self._cluster.is_watched:
            if self._cluster.trouble is not None:
                raise self._cluster.trouble
            return
        async with self._checking:
            if time.monotonic() - self._checked_at > _CHECK_FRESH.total_seconds():
                try:
                    await self._api.request("list", JOBS, query={"limit": 1})
                    self._check_failure = None
                except ExecutorUnavailable as error:
                    self._check_failure = error
                self._checked_at = time.monotonic()
        if self._check_failure is not None:
            raise self._check_failure

    def _describe(self, known: Known) -> Execution:
        return describe(
            known.job,
            known.pods,
            known.events,
            gpu_resource=self._settings.gpu_resource,
            largest_node=self._largest_node,
        )

    async def _look_for_root(self, name: str) -> None:
        """Another dispatcher may have made it a moment ago."""
        for resource in self._root_resources(name):
            try:
                root = await self._api.request("get", resource, object_name(name))
            except KubernetesRefused as refused:
                if refused.status != 404:
                    raise
            else:
                if execution_of(root) == name:
                    self._cluster.put_root(root)
                return

    async def _list_pods(self, name: str) -> list[Manifest]:
        query = {"labelSelector": execution_selector(name, self._settings)}
        pods: list[Manifest] = (await self._api.request("list", PODS, query=query))["items"]
        return pods

    async def _read_nodes(self) -> None:
        if time.monotonic() - self._nodes_read_at < _NODES_FRESH.total_seconds():
            return
        self._nodes_read_at = time.monotonic()
        try:
            nodes = await self._api.request("list", NODES)
        except ExecutorUnavailable as error:
            log.warning("whether a node is large enough is not known: %s", error)
        else:
            self._largest_node = largest_node(nodes["items"], self._settings.gpu_resource)

    def _root_resources(self, name: str) -> list[Resource]:
        """What it may be: a job on one node is a Job in any case."""
        root = self._cluster.known(name).job
        if root is not None:
            return [_RESOURCES[root["kind"]]]
        return [JOBS, JOB_SETS] if self._settings.multi_node == "JobSet" else [JOBS]

    # --- logs -----------------------------------------------------------------------------------------------------

    async def logs(self, name: str) -> AsyncIterator[ExecutionLog]:
        for pod in await self._pods_that_ran(name):
            pod_name = pod["metadata"]["name"]
            try:
                async with self._api.log(pod_name, {"container": CONTAINER_NAME}) as chunks:
                    yield ExecutionLog(pod_name, chunks)
            except KubernetesRefused as refused:  # it was deleted meanwhile, or its node is away: the others' are not
                log.warning("the log of pod %s cannot be read: %s", pod_name, refused)

    async def log_tail(self, name: str) -> str:
        tail = b""
        for pod in (await self._pods_that_ran(name))[-1:]:
            query: Query = {"container": CONTAINER_NAME, "tailLines": _TAIL_LINES, "limitBytes": _MOST_TAIL_BYTES}
            try:
                async with self._api.log(pod["metadata"]["name"], query) as chunks:
                    async for chunk in chunks:
                        tail = (tail + chunk)[-_TAIL_BYTES:]
            except ExecutorUnavailable as error:
                return f"(the log of pod {pod['metadata']['name']} cannot be read: {error})"
        return tail.decode(errors="replace")

    async def _pods_that_ran(self, name: str) -> list[Manifest]:
        """Oldest first."""
        await self._cluster.wait_synced()
        pods = [pod for pod in self._cluster.known(name).pods if _has_run(pod)]
        return sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])


def _identity(manifest: Manifest) -> tuple[str | None, str | None]:
    return execution_of(manifest), (manifest["metadata"].get("labels") or {}).get(INSTANCE_LABEL)


def _tells_how_it_ended(known: Known) -> bool:
    return any("terminated" in container_state(pod) for pod in known.pods)


def _is_unschedulable(pod: Manifest) -> bool:
    scheduled = false_condition(pod, "PodScheduled")
    return scheduled is not None and scheduled.get("reason") == "Unschedulable"


def _has_run(pod: Manifest) -> bool:
    return bool({"running", "terminated"} & container_state(pod).keys())
