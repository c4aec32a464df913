"""What graders look at: the model's answer as `sample`, the row of the data set as `item`."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

Namespaces = Mapping[str, Mapping[str, Any]]
"""`item` and `sample`, as templates and python graders read them."""


@dataclass(frozen=True)
class Sample:
    output_text: str
    output_tools: Sequence[Mapping[str, Any]] = field(default=())
    """The answer's `tool_calls`."""

    def as_variables(self) -> dict[str, Any]:
        """`output_json` is there only when the answer is JSON."""
        tools = list(self.output_tools)
        message = {"role": "assistant", "content": self.output_text, "tool_calls": tools}
        variables: dict[str, Any] = {
            "output_text": self.output_text,
            "output_tools": tools,
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if tools else "stop"}],
        }
        with suppress(msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            variables["output_json"] = msgspec.json.decode(self.output_text.encode())
        return variables


def namespaces_of(sample: Sample, item: Mapping[str, Any]) -> Namespaces:
    return {"item": item, "sample": sample.as_variables()}
