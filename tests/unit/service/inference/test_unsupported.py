from typing import Any

import pytest

from service.errors import InvalidRequest
from service.inference.routing import ServedModel
from service.inference.unsupported import refuse_unsupported
from tuning.catalogue import CatalogueEntry

BASE = CatalogueEntry(name="tiny", source="/srv/tiny", context_length=512, stop_tokens=("x",), learning_rate=1)
MODEL = ServedModel("ft:tiny:org::1", BASE, "ab" * 32)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"mm_processor_kwargs": {}}, "mm_processor_kwargs"),
        ({"kv_transfer_params": {"host": "x"}}, "kv_transfer_params"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"tools": [{"type": "function"}]}, "tools"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1"}}]}
                ]
            },
            "messages[0].content[0].type",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"image_url": "http://a"}]}]},
            "messages[0].content[1].type",
        ),
    ],
)
def test_what_tenants_must_not_set_is_refused_with_its_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        refuse_unsupported(body, MODEL)
    assert raised.value.param == param


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"chat_template": None, "priority": None, "tools": []},
        {"tools": [{"type": "function"}], "tool_choice": "none"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]},
        {"messages": "nonsense"},
        {"messages": [None, {"content": [1, None]}]},
    ],
)
def test_everything_else_is_left_to_vllm(body: dict[str, Any]) -> None:
    refuse_unsupported(body, MODEL)
