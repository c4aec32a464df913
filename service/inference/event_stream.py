"""vLLM's server-sent events, cut at their ends and with the public model name in each."""

import json
from collections.abc import AsyncIterator
from typing import Any

from service.inference.routing import ServedModel
from service.inference.vllm_errors import describe_error

_END = b"\n\n"
_DATA = b"data: "
_DONE = b"[DONE]"


async def split_events(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole events without their ends. On bytes, because JSON holds separators of lines that text would be cut at."""
    pending = b""
    async for chunk in chunks:
        *events, pending = (pending + chunk).split(_END)
        for event in events:
            yield event
    if pending.strip():
        yield pending


def rename_event(event: bytes, model: ServedModel) -> bytes:
    """The event as the client gets it, its end included."""
    if not event.startswith(_DATA) or event == _DATA + _DONE:
        return event + _END
    content = json.loads(event.removeprefix(_DATA))
    if "error" in content:  # it broke after the answer had begun
        error = content["error"]
        content = describe_error(int(error.get("code") or 500), error, model).body
    return encode_event(renamed(content, model))


def encode_event(content: dict[str, Any]) -> bytes:
    return _DATA + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + _END


def renamed(content: dict[str, Any], model: ServedModel) -> dict[str, Any]:
    """An answer, whole or a part of it, under the name that the client asked for."""
    return {**content, "model": model.public_name} if "model" in content else content
