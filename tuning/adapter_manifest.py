"""What an adapter directory holds, and its name: the hash of that.

An adapter is immutable. Its name is the SHA-256 of its manifest's canonical JSON, so equal content has an equal name,
and whoever fetches it can check every byte. The manifest is written last: where it lies, the directory is whole.
"""

import hashlib
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

MANIFEST_NAME = "manifest.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""All that a servable adapter holds. Nothing else is uploaded, and nothing else is accepted."""

ADAPTER_NAME_PATTERN = re.compile(r"[0-9a-f]{64}")


class AdapterFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    bytes: int
    sha256: str


class AdapterManifest(BaseModel):
    """No times and no job ids in here: the same training gives the same adapter name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    base_model: str
    """The catalogue's name; an adapter loads on this base only."""
    base_revision: str | None
    template_sha256: str
    r: int
    lora_alpha: int
    use_rslora: bool = False
    """Left out of the JSON when it is not set, so that adapters of before keep their names."""
    target_modules: tuple[str, ...]
    """Sorted."""
    files: tuple[AdapterFile, ...]
    """Sorted by name."""

    def to_json(self) -> bytes:
        """Canonical: the bytes that are stored and hashed."""
        return self.model_dump_json(indent=1, exclude=None if self.use_rslora else {"use_rslora"}).encode()

    @property
    def adapter_sha256(self) -> str:
        return hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def from_json(cls, content: bytes, expected_sha256: str) -> "AdapterManifest":
        """Raises ValueError when the content is not the manifest of that name, or names a file it must not."""
        if hashlib.sha256(content).hexdigest() != expected_sha256:
            raise ValueError(f"the manifest of adapter {expected_sha256} has another hash than its name")
        manifest = cls.model_validate_json(content)
        names = tuple(file.name for file in manifest.files)
        if names != ADAPTER_FILES:
            raise ValueError(f"adapter {expected_sha256} holds {names}; only {ADAPTER_FILES} are accepted")
        return manifest


def describe_file(path: Path) -> AdapterFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return AdapterFile(name=path.name, bytes=path.stat().st_size, sha256=digest.hexdigest())
