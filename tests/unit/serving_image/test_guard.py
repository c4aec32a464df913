from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from serving_image.guard import ALLOWED, Guard

KEY = {"authorization": "Bearer secret"}


@pytest.fixture
async def client(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(_guarded_app(monkeypatch)), base_url="http://vllm"
    ) as client:
        yield client


def _guarded_app(monkeypatch: pytest.MonkeyPatch) -> Guard:
    """Behind the guard every path answers."""
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    methods = ["GET", "POST", "DELETE", "OPTIONS"]
    return Guard(Starlette(routes=[Route("/{path:path}", lambda _: PlainTextResponse("ok"), methods=methods)]))


async def test_what_the_gateway_needs_is_open_with_the_key(client: httpx.AsyncClient) -> None:
    for method, path in ALLOWED:
        assert (await client.request(method, path, headers=KEY)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/adapters"),
        ("DELETE", "/adapters/x"),
        ("POST", "/invocations"),
        ("POST", "/tokenize"),
        ("POST", "/v1/load_lora_adapter"),
        ("GET", "/v1/chat/completions"),
        ("OPTIONS", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions/"),
        ("POST", "//v1/chat/completions"),
        ("POST", "/v1/chat/completions/../../load_lora_adapter"),
        ("GET", "/"),
    ],
)
async def test_everything_else_is_closed_even_with_the_key(client: httpx.AsyncClient, method: str, path: str) -> None:
    assert (await client.request(method, httpx.URL(f"http://vllm{path}"), headers=KEY)).status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer wrong")],
        [("authorization", "secret")],
        [("authorization", "Basic secret")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer secret"), ("authorization", "Bearer wrong")],
    ],
)
async def test_every_path_wants_the_key(client: httpx.AsyncClient, headers: list[tuple[str, str]]) -> None:
    for path in ("/health", "/v1/models", "/nowhere"):
        assert (await client.get(path, headers=headers)).status_code == 401


@pytest.mark.parametrize(("health", "told"), [(200, 200), (503, 503), (500, 503), (404, 503)])
async def test_a_probe_without_the_key_learns_whether_vllm_is_healthy_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, health: int, told: int
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    seen: list[tuple[str, str, bytes]] = []

    async def answer(request: Request) -> PlainTextResponse:
        seen.append((request.url.path, request.url.query, request.headers.get("x-mine", "").encode()))
        return PlainTextResponse("how it is inside", health, headers={"server": "vllm"})

    guard = Guard(Starlette(routes=[Route("/health", answer)]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://vllm") as client:
        probe = await client.get("/livez?verbose=1", headers={"x-mine": "1"})
    assert probe.status_code == told
    assert "inside" not in probe.text and "server" not in probe.headers
    assert seen == [("/health", "", b"")]


async def test_only_a_get_of_exactly_livez_is_open(client: httpx.AsyncClient) -> None:
    for method, path in (("POST", "/livez"), ("HEAD", "/livez"), ("GET", "/livez/"), ("GET", "/livez/../v1/models")):
        assert (await client.request(method, httpx.URL(f"http://vllm{path}"))).status_code == 401


def test_websockets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    client = TestClient(_guarded_app(monkeypatch))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/realtime", headers=KEY):
        pass


def test_an_engine_without_a_key_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(KeyError):
        Guard(Starlette())
