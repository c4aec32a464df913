"""How completions are described: their bodies go to vLLM and back as they are, so FastAPI has no types to read."""

from typing import Any

_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_PENALTY: dict[str, Any] = {"type": ["number", "null"], "minimum": -2, "maximum": 2}

_SAMPLING: dict[str, Any] = {
    "model": {"type": "string", "description": "A base model, a fine-tuned one or a checkpoint."},
    "temperature": {"type": ["number", "null"], "minimum": 0, "maximum": 2, "description": "0: always the likeliest."},
    "top_p": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1},
    "n": {"type": ["integer", "null"], "minimum": 1, "description": "Answers to one prompt."},
    "seed": {"type": ["integer", "null"]},
    "stop": {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "null"}]},
    "max_tokens": {"type": ["integer", "null"], "minimum": 1},
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "logit_bias": {"type": ["object", "null"], "additionalProperties": {"type": "number"}},
    "stream": {"type": ["boolean", "null"], "description": "Server-sent events, the last one `[DONE]`."},
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": "boolean"}}},
    "user": {"type": ["string", "null"]},
}

_MESSAGE: dict[str, Any] = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "description": "A text, or parts of the type `text` or `refusal`: models are served for text only.",
            "anyOf": [_TEXT, {"type": "array", "items": {"type": "object"}}, {"type": "null"}],
        },
        "name": _TEXT,
        "tool_calls": {"type": "array", "items": {"type": "object"}, "description": "Of an assistant's turn."},
        "tool_call_id": {"type": "string", "description": "In a tool's turn: the call that it answers."},
    },
}

_CHAT_FIELDS: dict[str, Any] = _SAMPLING | {
    "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
    "max_completion_tokens": {"type": ["integer", "null"], "minimum": 1, "description": "As `max_tokens`, and wins."},
    "tools": {
        "type": ["array", "null"],
        "description": "For models that have a tool parser; others refuse them.",
        "items": {
            "type": "object",
            "required": ["type", "function"],
            "properties": {"type": {"const": "function"}, "function": {"type": "object", "required": ["name"]}},
        },
    },
    "tool_choice": {
        "description": "`none`, `auto`, `required`, or `{type, function: {name}}`.",
        "anyOf": [_TEXT, {"type": "object"}, {"type": "null"}],
    },
    "parallel_tool_calls": {"type": ["boolean", "null"]},
    "response_format": {
        "type": ["object", "null"],
        "required": ["type"],
        "properties": {"type": {"type": "string", "enum": ["text", "json_object", "json_schema"]}},
    },
    "logprobs": {"type": ["boolean", "null"]},
    "top_logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 20},
}

_COMPLETION_FIELDS: dict[str, Any] = _SAMPLING | {
    "prompt": {
        "description": "A text or token ids, or a list of either.",
        "anyOf": [_TEXT, {"type": "array", "items": {"anyOf": [_TEXT, _COUNT, {"type": "array", "items": _COUNT}]}}],
    },
    "echo": {"type": ["boolean", "null"]},
    "logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": 5},
}

_USAGE: dict[str, Any] = {
    "type": ["object", "null"],
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "properties": {"prompt_tokens": _COUNT, "completion_tokens": _COUNT, "total_tokens": _COUNT},
}


def _answer(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "index": _COUNT,
        "finish_reason": {"type": ["string", "null"], "examples": ["stop", "length", "tool_calls"]},
    } | choice
    return {
        "type": "object",
        "required": ["id", "object", "created", "model", "choices"],
        "properties": {
            "id": _TEXT,
            "object": {"const": kind},
            "created": _COUNT,
            "model": {"type": "string", "description": "As it was asked for."},
            "choices": {
                "type": "array",
                "items": {"type": "object", "required": list(properties), "properties": properties},
            },
            "usage": _USAGE,
        },
    }


CHAT_ANSWER = _answer("chat.completion", {"message": _MESSAGE})
COMPLETION_ANSWER = _answer("text_completion", {"text": _TEXT})

_STATED = {"id": "chatcmpl-8f1c2b7e", "created": 1795263700}
_USED = {"usage": {"prompt_tokens": 22, "completion_tokens": 9, "total_tokens": 31}}

CHAT_REQUEST_EXAMPLE: dict[str, Any] = {
    "model": "ft:fettle-tiny:fettle:smart-home:zX81QlWe",
    "messages": [{"role": "user", "content": "Turn off the lights in the kitchen."}],
    "temperature": 0,
    "stream": False,
}
CHAT_ANSWER_EXAMPLE: dict[str, Any] = {
    **_STATED,
    "object": "chat.completion",
    "model": "ft:fettle-tiny:fettle:smart-home:zX81QlWe",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "The lights in the kitchen are off."},
            "finish_reason": "stop",
        }
    ],
    **_USED,
}
COMPLETION_REQUEST_EXAMPLE: dict[str, Any] = {"model": "fettle-tiny", "prompt": "The lamp in the", "max_tokens": 16}
COMPLETION_ANSWER_EXAMPLE: dict[str, Any] = {
    **_STATED,
    "object": "text_completion",
    "model": "fettle-tiny",
    "choices": [{"index": 0, "text": " kitchen is on.", "finish_reason": "stop"}],
    **_USED,
}


def _request(fields: dict[str, Any], required: list[str], example: dict[str, Any]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "required": required,
        "properties": fields,
        "additionalProperties": True,
        "description": "OpenAI's request, with what vLLM adds to it. Fields that this server refuses are named.",
    }
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}}


def _responses(answer: dict[str, Any], example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    content = {
        "application/json": {"schema": answer, "example": example},
        "text/event-stream": {"schema": {"type": "string"}, "example": "data: {…}\n\ndata: [DONE]\n\n"},
    }
    return {200: {"description": "The answer, or with `stream` its events.", "content": content}}


CHAT_REQUEST = _request(_CHAT_FIELDS, ["model", "messages"], CHAT_REQUEST_EXAMPLE)
CHAT_RESPONSES = _responses(CHAT_ANSWER, CHAT_ANSWER_EXAMPLE)
COMPLETION_REQUEST = _request(_COMPLETION_FIELDS, ["model", "prompt"], COMPLETION_REQUEST_EXAMPLE)
COMPLETION_RESPONSES = _responses(COMPLETION_ANSWER, COMPLETION_ANSWER_EXAMPLE)
