"""vLLM's LoRA resolver plugin: a model name that vLLM does not know is the hash of an adapter, pulled on first use.

Found by vLLM through the entry point `fettle_adapters` of the group `vllm.general_plugins`. vLLM calls it under a lock
for each name, on the event loop of its API, and remembers what it loaded. It does not see who asks: authorisation is
the gateway's.

    FETTLE_ADAPTERS_URI        file:///folder or s3://bucket/prefix; an adapter lies under its own hash
    FETTLE_ADAPTER_CACHE_DIR   local disk, kept for the life of the process
    FETTLE_BASE_MODEL          the catalogue's name of the base that this vLLM serves
"""

import asyncio
import logging
import os
from pathlib import Path

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

from serving_image.adapter_pull import AdapterUnusable, pull_adapter
from serving_image.cpu_repairs import repair_cpu_build

log = logging.getLogger("vllm.fettle")  # under vLLM's logger, which is configured to reach the log


class AdapterResolver(LoRAResolver):  # type: ignore[misc]  # vLLM tells no types
    def __init__(self, adapters_uri: str, cache_folder: Path, base_model: str) -> None:
        self._adapters_uri = adapters_uri
        self._cache_folder = cache_folder
        self._base_model = base_model

    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """`base_model_name` is the path that vLLM loaded, not the catalogue's name. None becomes a 404."""
        try:
            folder = await asyncio.to_thread(
                pull_adapter, self._adapters_uri, self._cache_folder, lora_name, self._base_model
            )
        except AdapterUnusable as error:
            log.error("Refused: %s", error)
            return None
        if folder is None:
            return None
        # vLLM replaces the id by its own counter.
        return LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))


def register() -> None:
    """vLLM calls it in each of its processes; only the API's one resolves. Raises KeyError for a missing setting."""
    if "FETTLE_ADAPTERS_URI" not in os.environ:
        return  # somebody else's vLLM in the same environment: the entry point is seen by all of them
    repair_cpu_build()
    resolver = AdapterResolver(
        os.environ["FETTLE_ADAPTERS_URI"],
        Path(os.environ["FETTLE_ADAPTER_CACHE_DIR"]),
        os.environ["FETTLE_BASE_MODEL"],
    )
    LoRAResolverRegistry.register_resolver("fettle_adapters", resolver)
