"""Requests to an API server that throttles, stumbles, hangs and changes its mind: a real one does so rarely."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from service.executors.base import ExecutorUnavailable, Launch
from service.executors.kubernetes import KubernetesExecutor
from service.executors.kubernetes_api import JOBS, KubernetesApi, KubernetesRefused
from service.executors.kubernetes_settings import KubernetesSettings
from service.ids import new_job_id
from tuning.resources import TrainingResources

Answer = Callable[[], web.StreamResponse]


class MoodyServer:
    """Gives the answers in their order; the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[web.BaseRequest] = []
        self.hangs = False

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.requests.append(request)
        if self.hangs:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(3600)
        return self.answers.pop(0)() if len(self.answers) > 1 else self.answers[0]()


def refused(status: int, reason: str, message: str = "no", **headers: str) -> Answer:
    return lambda: web.json_response({"reason": reason, "message": message}, status=status, headers=headers)


def made() -> web.StreamResponse:
    return web.json_response({"kind": "Job"}, status=201)


def made_job_set() -> web.StreamResponse:
    metadata = {"name": "any", "uid": "1", "resourceVersion": "1"}
    return web.json_response({"kind": "JobSet", "metadata": metadata}, status=201)


@pytest.fixture
async def server() -> MoodyServer:
    return MoodyServer()


@pytest.fixture
async def api(server: MoodyServer, tmp_path: Path) -> AsyncIterator[KubernetesApi]:
    runner = web.ServerRunner(web.Server(server), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    config = {
        "current-context": "moody",
        "clusters": [{"name": "moody", "cluster": {"server": f"http://127.0.0.1:{runner.addresses[0][1]}"}}],
        "users": [{"name": "me", "user": {"token": "old"}}],
        "contexts": [{"name": "moody", "context": {"cluster": "moody", "user": "me", "namespace": "ours"}}],
    }
    kubeconfig = tmp_path / "moody.conf"
    kubeconfig.write_text(json.dumps(config))
    api = KubernetesApi(None, kubeconfig)
    yield api
    await api.close()
    await runner.cleanup()


def create(api: KubernetesApi) -> Awaitable[object]:
    return api.request("create", JOBS, body={"kind": "Job"})


async def test_a_throttled_request_waits_as_long_as_it_is_told(server: MoodyServer, api: KubernetesApi) -> None:
    server.answers = [refused(429, "TooManyRequests", **{"Retry-After": "1"}), made]
    began = time.monotonic()
    assert await create(api) == {"kind": "Job"}
    assert 1 <= time.monotonic() - began < 4
    assert [request.path for request in server.requests] == ["/apis/batch/v1/namespaces/ours/jobs"] * 2


async def test_a_server_that_wants_a_long_rest_gets_it(server: MoodyServer, api: KubernetesApi) -> None:
    server.answers = [refused(429, "TooManyRequests", **{"Retry-After": "600"})]
    with pytest.raises(ExecutorUnavailable, match="not overloaded"):
        await create(api)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        refused(500, "InternalError"),
        refused(503, "ServiceUnavailable"),
        refused(409, "Conflict", "Operation cannot be fulfilled on resourcequotas"),
        lambda: web.Response(status=502, text="<html>a load balancer"),
    ],
)
async def test_what_passes_is_tried_again(server: MoodyServer, api: KubernetesApi, answer: Answer) -> None:
    server.answers = [answer, answer, made]
    assert await create(api) == {"kind": "Job"}
    assert api.calls == {"create jobs": 3}


@pytest.mark.parametrize("status", [400, 403, 404, 410, 422])
async def test_what_does_not_pass_is_told_at_once(server: MoodyServer, api: KubernetesApi, status: int) -> None:
    server.answers = [refused(status, "Whatever", "the server's words")]
    with pytest.raises(KubernetesRefused, match="the server's words") as raised:
        await create(api)
    assert raised.value.status == status
    assert len(server.requests) == 1


async def test_a_used_up_quota_is_told_as_one(server: MoodyServer, api: KubernetesApi) -> None:
    server.answers = [refused(403, "Forbidden", 'jobs.batch "a" is forbidden: exceeded quota: few, requested: 1')]
    with pytest.raises(ExecutorUnavailable, match="raise the quota of namespace ours"):
        await create(api)


async def test_a_replaced_token_is_read_again(server: MoodyServer, api: KubernetesApi, tmp_path: Path) -> None:
    kubeconfig = tmp_path / "moody.conf"

    def expired() -> web.StreamResponse:
        kubeconfig.write_text(kubeconfig.read_text().replace('"old"', '"new"'))
        return web.json_response({"reason": "Unauthorized", "message": "Unauthorized"}, status=401)

    server.answers = [expired, made]
    assert await create(api) == {"kind": "Job"}
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer old", "Bearer new"]


async def test_a_connection_that_went_silent_ends_a_watch(server: MoodyServer, api: KubernetesApi) -> None:
    server.hangs = True
    with pytest.raises(ExecutorUnavailable, match="does not answer"):
        async with api.watch(JOBS, {}, idle_seconds=0.3) as lines:
            async for _ in lines:
                raise AssertionError("there is nothing to tell")


async def test_a_secret_never_stands_in_an_error(server: MoodyServer, api: KubernetesApi) -> None:
    server.answers = [refused(401, "Unauthorized", "Unauthorized")]
    with pytest.raises(ExecutorUnavailable, match="KUBECONFIG") as raised:
        await create(api)
    assert "old" not in str(raised.value)


async def test_a_job_set_has_its_own_address(server: MoodyServer, tmp_path: Path, api: KubernetesApi) -> None:
    """A real one needs a controller that is not part of Kubernetes."""
    settings = KubernetesSettings.model_validate({"image": "trainer", "multiNode": "JobSet"})
    one, another = (KubernetesExecutor(settings, timedelta(seconds=1), {}, tmp_path / "moody.conf") for _ in range(2))
    job_id = new_job_id()
    resources = TrainingResources(nodes=2)
    launch = Launch(f"{job_id}-1", "s3://bucket/spec.json", job_id, "proj_a", "fettle-tiny", 1, resources)
    server.answers = [made_job_set, refused(404, "NotFound"), made]
    await one.start(launch)
    await another.interrupt(launch.name)  # which does not know yet what it is
    await one.close()
    await another.close()
    name = launch.name.lower()
    assert [(request.method, request.path) for request in server.requests] == [
        ("POST", "/apis/jobset.x-k8s.io/v1alpha2/namespaces/ours/jobsets"),
        ("DELETE", f"/apis/batch/v1/namespaces/ours/jobs/{name}"),
        ("DELETE", f"/apis/jobset.x-k8s.io/v1alpha2/namespaces/ours/jobsets/{name}"),
    ]
