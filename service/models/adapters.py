"""Where adapters lie, and what one says of itself."""

from service.object_storage.base import ObjectStorage
from tuning.adapter_manifest import MANIFEST_NAME, AdapterManifest

ADAPTERS_PREFIX = "adapters"


async def read_manifest(storage: ObjectStorage, sha256: str) -> AdapterManifest:
    """Raises ObjectNotFound, and ValueError when it is damaged."""
    content = await storage.get_bytes(f"{ADAPTERS_PREFIX}/{sha256}/{MANIFEST_NAME}")
    return AdapterManifest.from_json(content, sha256)
