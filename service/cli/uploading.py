"""A file on its way to the service, with its progress."""

import io
from pathlib import Path

from openai import OpenAI
from openai.types import FileObject

from service.cli.stages import Stage


def upload_file(client: OpenAI, path: Path, stage: Stage) -> FileObject:
    """Streams `path` to the service; `stage` counts the bytes and is finished at the end."""
    with _ReportedFile(path, stage) as content:
        file = client.files.create(file=(path.name, content), purpose="fine-tune")
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
