"""A bug of ours reaches the client as an OpenAI error with a request id, and the log as a trace under that id."""

import httpx
import pytest
from fastapi import FastAPI

from service.response_headers import ResponseHeaders


async def test_a_crash_tells_its_request_id_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()
    app.add_middleware(ResponseHeaders)

    @app.get("/crash")
    def crash() -> None:
        raise ZeroDivisionError("a secret")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = await client.get("/crash")
    assert answer.status_code == 500
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "secret" not in answer.text
    [crashed] = [record for record in caplog.records if record.exc_info]
    assert answer.headers["x-request-id"] in crashed.getMessage()
