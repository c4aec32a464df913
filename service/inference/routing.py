"""Which engine answers for a public model name. One vLLM process per base model; an adapter is named by its hash."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tuning.catalogue import CatalogueEntry


class AdapterRefused(Exception):
    """vLLM does not load this adapter and never will; the message says so in a user's words."""


@dataclass(frozen=True)
class ServedModel:
    public_name: str
    """What clients send and see: a catalogue name, or `ft:{base}:{org}:{suffix}:{id}`."""
    base: CatalogueEntry
    adapter_sha256: str | None
    """None: the base model itself."""

    @property
    def engine_name(self) -> str:
        """What vLLM knows the model by."""
        return self.adapter_sha256 or self.base.name


FindServedModel = Callable[[str, str], Awaitable[ServedModel | None]]
"""The lookup by project id and public name; None when the project may not use it or it does not exist."""
