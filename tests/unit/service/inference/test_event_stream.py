import json
from collections.abc import AsyncIterator

import pytest

from service.inference.event_stream import rename_event, split_events
from service.inference.routing import ServedModel
from tuning.catalogue import CatalogueEntry

HASH = "ab" * 32
BASE = CatalogueEntry(name="tiny", source="/srv/tiny", context_length=512, stop_tokens=("x",), learning_rate=1)
MODEL = ServedModel("ft:tiny:org::1", BASE, HASH)


async def _in_pieces(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def _event(**content: object) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_events_are_whole_however_they_arrive(size: int) -> None:
    # U+2028 and U+0085 end a line for str.splitlines, and not for server-sent events
    events = [_event(model=HASH, text="a\u2028b\u0085c ü"), b": ping", b"data: [DONE]"]
    stream = b"".join(event + b"\n\n" for event in events)
    assert [event async for event in split_events(_in_pieces(stream, size))] == events


def test_only_the_model_changes_in_a_chunk() -> None:
    renamed = rename_event(
        _event(id="1", model=HASH, choices=[{"delta": {"content": f'"model":"{HASH}"\u2028'}}]), MODEL
    )
    assert renamed.startswith(b"data: {") and renamed.endswith(b"}\n\n")
    content = json.loads(renamed.removeprefix(b"data: "))
    expected = {"id": "1", "model": "ft:tiny:org::1", "choices": [{"delta": {"content": f'"model":"{HASH}"\u2028'}}]}
    assert content == expected


def test_the_end_and_comments_pass_as_they_are() -> None:
    assert rename_event(b"data: [DONE]", MODEL) == b"data: [DONE]\n\n"
    assert rename_event(b": ping", MODEL) == b": ping\n\n"


def test_an_error_inside_a_stream_tells_no_inner_names() -> None:
    inner = {"message": f"EngineCore died loading {HASH} in /srv/tiny", "type": "InternalServerError", "code": 500}
    renamed = rename_event(_event(error=inner), MODEL)
    error = json.loads(renamed.removeprefix(b"data: "))["error"]
    assert error == {
        "message": "The model 'ft:tiny:org::1' failed to answer. Try again.",
        "type": "server_error",
        "param": None,
        "code": None,
    }
