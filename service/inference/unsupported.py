"""Fields that tenants must not set, or that vLLM would drop without a word: refused with their name."""

from typing import Any

from service.errors import InvalidRequest
from service.inference.routing import ServedModel

_REFUSED = {
    "chat_template": "a model is served with the template it was trained with",
    "functions": "send 'tools' instead",
    "function_call": "send 'tool_choice' instead",
    "audio": "models are served for text only",
    "web_search_options": "models here have no access to the web",
    "mm_processor_kwargs": "models are served for text only",
    "media_io_kwargs": "models are served for text only",
    "prompt_embeds": "send the prompt as text or token ids",
    "kv_transfer_params": "it is the server's own",
    "ec_transfer_params": "it is the server's own",
    "vllm_xargs": "it is the server's own",
    "request_id": "the server makes its own ids",
    "priority": "requests are answered in the order they arrive",
}

_TEXT_PARTS = ("text", "refusal")


def refuse_unsupported(body: dict[str, Any], model: ServedModel) -> None:
    """Raises InvalidRequest. Whatever else is wrong with the body, vLLM says."""
    for field, reason in _REFUSED.items():
        if body.get(field) is not None:
            raise InvalidRequest(f"'{field}' is not supported by this server: {reason}.", param=field)
    if body.get("modalities") not in (None, ["text"]):
        raise InvalidRequest("'modalities' can only be [\"text\"] on this server.", param="modalities")
    if body.get("tools") and body.get("tool_choice") != "none" and model.base.tool_parser is None:
        message = f"The model '{model.public_name}' does not support tools. Leave out 'tools'."
        raise InvalidRequest(message, param="tools")
    messages = body.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else []):
        content = message.get("content") if isinstance(message, dict) else None
        for number, part in enumerate(content if isinstance(content, list) else []):
            # An address in an image part would be fetched by vLLM, from inside the network, before it says no.
            if isinstance(part, dict) and part.get("type") not in _TEXT_PARTS:
                param = f"messages[{index}].content[{number}].type"
                message = f"Only text can be sent to '{model.public_name}': {part.get('type')!r} is not supported."
                raise InvalidRequest(message, param=param)
