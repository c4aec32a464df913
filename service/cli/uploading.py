"""A file on its way to the service, with its progress."""

import io
from pathlib import Path

from openai import Omit, OpenAI, omit
from openai.types import FileObject
from openai.types.file_create_params import ExpiresAfter

from service.cli.stages import Stage


def upload_file(client: OpenAI, path: Path, stage: Stage, *, kept_seconds: int | None = None) -> FileObject:
    """Streams `path` to the service; `stage` counts the bytes and is finished at the end. `kept_seconds`: then the
    service deletes the file by itself; None: it is kept."""
    kept: ExpiresAfter | Omit = {"anchor": "created_at", "seconds": kept_seconds} if kept_seconds else omit
    with _ReportedFile(path, stage) as content:
        file = client.files.create(file=(path.name, content), purpose="fine-tune", expires_after=kept)
    stage.finish()
    return file


class _ReportedFile(io.FileIO):
    def __init__(self, path: Path, stage: Stage) -> None:
        super().__init__(path, "rb")
        self._stage = stage

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self._stage.advance_to(self.tell())
        return data or b""
