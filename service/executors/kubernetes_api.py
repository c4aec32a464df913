"""Requests to a Kubernetes API server: credentials, time limits, retries, and errors in plain words."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from kubernetes.aio.config.incluster_config import SERVICE_TOKEN_FILENAME

from service.executors.base import ExecutorUnavailable
from service.executors.kubernetes_manifest import Manifest

Verb = Literal["get", "list", "watch", "create", "delete"]
"""Kubernetes' words, as they stand in a Role."""
Query = Mapping[str, str | int]
Result = TypeVar("Result")

_METHODS: dict[Verb, str] = {"create": "POST", "delete": "DELETE"}
_CONNECT_SECONDS = 5
_ANSWER_SECONDS = 20
_LOG_IDLE_SECONDS = 60
_RETRY_PAUSES = (0.2, 0.5, 1.0, 2.0)  # seconds, each up to half longer: an API server that restarts is back by then
_LONGEST_RETRY_AFTER = 15.0  # seconds; a server that wants more is left alone, and the step is taken again later
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Resource:
    """A kind of objects."""

    name: str
    group: str = ""
    version: str = "v1"
    is_namespaced: bool = True

    def __str__(self) -> str:
        """As Kubernetes' own messages name it."""
        return f"{self.name}.{self.group}" if self.group else self.name


JOBS = Resource("jobs", "batch")
JOB_SETS = Resource("jobsets", "jobset.x-k8s.io", "v1alpha2")
PODS = Resource("pods")
EVENTS = Resource("events")
SERVICES = Resource("services")
NODES = Resource("nodes", is_namespaced=False)


@dataclass(frozen=True)
class Call:
    verb: Verb
    resource: Resource
    name: str | None = None
    subresource: str | None = None
    query: Query | None = None
    body: Manifest | None = None

    def path(self, namespace: str) -> str:
        group = self.resource.group
        words = [f"/apis/{group}" if group else "/api", self.resource.version]
        words += ["namespaces", namespace] if self.resource.is_namespaced else []
        words += [self.resource.name, *(word for word in (self.name, self.subresource) if word)]
        return "/".join(words)

    @property
    def target(self) -> str:
        """As a Role has it: `pods/log`."""
        return f"{self.resource.name}/{self.subresource}" if self.subresource else self.resource.name

    def __str__(self) -> str:
        return f"{self.verb} {self.target}"


class KubernetesRefused(ExecutorUnavailable):
    """The API server answered with an error."""

    def __init__(self, message: str, status: int, reason: str, retry_after: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        """Kubernetes' own word, such as `AlreadyExists`."""
        self.retry_after = retry_after
        """Seconds."""

    @property
    def is_worth_another_try(self) -> bool:
        # 401: a token was replaced. Conflict: quotas of a namespace are counted by one request at a time.
        return self.status in (401, 429) or self.status >= 500 or self.reason == "Conflict"


class KubernetesApi:
    def __init__(self, namespace: str | None, kubeconfig: Path | None) -> None:
        """`namespace`: default is that of the credentials. `kubeconfig`: default is the service account of the pod that
        we are in; where there is none, what KUBECONFIG names."""
        self.calls: Counter[str] = Counter()
        """Requests so far by verb and resource; a retried one counts each time."""
        self._namespace = namespace
        self._kubeconfig = kubeconfig
        self._client: ApiClient | None = None
        self._connecting = asyncio.Lock()

    async def request(
        self,
        verb: Verb,
        resource: Resource,
        name: str | None = None,
        *,
        query: Query | None = None,
        body: Manifest | None = None,
    ) -> Manifest:
        """Raises KubernetesRefused; ExecutorUnavailable when there is no answer, also after a few more tries."""
        call = Call(verb, resource, name, query=query, body=body)
        return await _persistently(lambda: self._object(call))

    @asynccontextmanager
    async def log(self, pod: str, query: Query) -> AsyncIterator[AsyncIterator[bytes]]:
        """What the pod's container printed, as it arrives. Raises as `request` does, also while it is read."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_LOG_IDLE_SECONDS)
        call = Call("get", PODS, pod, "log", query)
        answer = await _persistently(lambda: self._send(call, limits))
        try:
            yield _pieces(answer, call)
        finally:
            answer.close()

    @asynccontextmanager
    async def watch(self, resource: Resource, query: Query, idle_seconds: float) -> AsyncIterator[AsyncIterator[bytes]]:
        """A line for each change. Tried once: whoever watches knows better from where to go on."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=idle_seconds)
        call = Call("watch", resource, query={**query, "watch": "true"})
        answer = await self._send(call, limits)
        try:
            yield _lines(answer, call)
        finally:
            answer.close()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()  # type: ignore[no-untyped-call]

    async def _object(self, call: Call) -> Manifest:
        limits = aiohttp.ClientTimeout(total=_ANSWER_SECONDS, sock_connect=_CONNECT_SECONDS)
        answer = await self._send(call, limits)
        try:
            content: Manifest = json.loads(await answer.read())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _no_answer(call, error) from error
        return content

    async def _send(self, call: Call, limits: aiohttp.ClientTimeout) -> aiohttp.ClientResponse:
        client = await self._connected()
        assert self._namespace is not None  # known once connected
        self.calls[str(call)] += 1
        request = await client.param_serialize(
            _METHODS.get(call.verb, "GET"),
            call.path(self._namespace),
            query_params=list((call.query or {}).items()),
            header_params={"Accept": "*/*" if call.subresource == "log" else "application/json"},
            body=call.body,
            auth_settings=["BearerToken"],
        )
        try:
            answer: aiohttp.ClientResponse = (await client.call_api(*request, _request_timeout=limits)).response
            if answer.status < 400:
                return answer
            content = await answer.read()
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            raise _no_answer(call, error) from error
        if answer.status == 401:
            await self._load_credentials(client.configuration)
        raise _refusal(call, self._namespace, answer, content)

    async def _connected(self) -> ApiClient:
        async with self._connecting:
            if self._client is None:
                configuration = Configuration()
                namespace = await self._load_credentials(configuration)
                self._namespace = self._namespace or namespace
                # it reads the certificates of authorities
                self._client = await asyncio.to_thread(ApiClient, configuration)
                self._client.user_agent = "fettle"
            return self._client

    async def _load_credentials(self, configuration: Configuration) -> str:
        """Returns their namespace. A service account's token is read again every minute: Kubernetes replaces it."""
        if self._kubeconfig is None:
            try:
                await asyncio.to_thread(load_incluster_config, configuration)
            except ConfigException:
                pass  # we are in no pod
            else:
                return await asyncio.to_thread(Path(SERVICE_TOKEN_FILENAME).with_name("namespace").read_text)
        try:
            path = str(self._kubeconfig) if self._kubeconfig is not None else None
            loader = await load_kube_config(  # type: ignore[no-untyped-call]
                path, client_configuration=configuration, persist_config=False
            )
        except (ConfigException, OSError) as error:
            raise ExecutorUnavailable(
                f"There are no credentials for Kubernetes: {error}. Run inside the cluster with a service account, or "
                "set KUBECONFIG to a file that names a cluster and a user"
            ) from error
        context: dict[str, Any] = loader.current_context["context"]
        return str(context.get("namespace") or "default")


async def _persistently(attempt: Callable[[], Awaitable[Result]]) -> Result:
    for pause in _RETRY_PAUSES:
        try:
            return await attempt()
        except KubernetesRefused as refused:
            wait = max(pause, refused.retry_after or 0)
            if not refused.is_worth_another_try or wait > _LONGEST_RETRY_AFTER:
                raise
        except ExecutorUnavailable:
            wait = pause
        await asyncio.sleep(wait * random.uniform(1, 1.5))
    return await attempt()


async def _pieces(answer: aiohttp.ClientResponse, call: Call) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.content.iter_chunked(_PIECE_BYTES):
            yield piece
    except (aiohttp.ClientError, OSError) as error:
        raise _no_answer(call, error) from error


async def _lines(answer: aiohttp.ClientResponse, call: Call) -> AsyncIterator[bytes]:
    try:
        while (line := await answer.content.readuntil(b"\n")).endswith(b"\n"):
            yield line
    except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: a line that is longer than any object
        raise _no_answer(call, error) from error


def _no_answer(call: Call, error: Exception) -> ExecutorUnavailable:
    reason = str(error) or type(error).__name__
    return ExecutorUnavailable(
        f"Kubernetes' API server does not answer ({call}: {reason}). It is asked again; see that it runs and can be "
        "reached from here"
    )


def _refusal(call: Call, namespace: str, answer: aiohttp.ClientResponse, content: bytes) -> KubernetesRefused:
    try:
        status = json.loads(content)
        reason, message = str(status["reason"]), str(status["message"])
    except (ValueError, TypeError, KeyError):  # something between us and the API server answered
        reason, message = "", content[:300].decode(errors="replace")
    after = answer.headers.get("Retry-After", "")
    return KubernetesRefused(
        f"Kubernetes refuses to {call}: {message}. {_remedy(call, namespace, answer.status, reason, message)}",
        answer.status,
        reason,
        float(after) if after.isdecimal() else None,
    )


def _remedy(call: Call, namespace: str, status: int, reason: str, message: str) -> str:
    if status == 401:
        return "See that the service account's token, or the user that KUBECONFIG names, is still good"
    if status == 403 and "exceeded quota" in message:
        return f"Wait until other jobs have ended, or raise the quota of namespace {namespace}"
    if status == 403 and reason == "Forbidden" and " cannot " in message:
        where = f"namespace {namespace}" if call.resource.is_namespaced else "the cluster"
        return f"Allow its service account the verb {call.verb} on {call.target} in {where}"
    if status == 404 and call.name is None:
        return f"See that namespace {namespace} exists and that the cluster knows {call.resource}"
    if status in (400, 403, 422):
        return "Mend the settings for training pods, or what the cluster forbids"
    if status == 429 or status >= 500:
        return "It is asked again; see that the API server is well and not overloaded"
    return "It is tried again"
