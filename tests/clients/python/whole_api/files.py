"""Files: made, read, listed and deleted."""

from pathlib import Path

import openai
from openai.types import FileObject
from strict import client, refused


def check(rows: Path) -> FileObject:
    """Returns one that can be trained on."""
    content = rows.read_bytes()
    file = client.files.create(file=rows, purpose="fine-tune")
    assert (file.filename, file.bytes, file.purpose) == (rows.name, len(content), "fine-tune"), file
    nameless = client.files.create(file=content, purpose="fine-tune")
    assert nameless.filename == "upload", nameless
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    assert client.files.wait_for_processing(file.id) == file

    newest_first = [listed.id for listed in client.files.list(purpose="fine-tune", limit=1)]  # page after page
    assert newest_first[:2] == [nameless.id, file.id], newest_first
    oldest_first = [listed.id for listed in client.files.list(order="asc", limit=1)]
    assert oldest_first.index(file.id) < oldest_first.index(nameless.id), oldest_first

    expiring = client.files.create(
        file=("batch.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert expiring.expires_at == expiring.created_at + 3600, expiring

    for gone in (nameless, expiring):
        assert client.files.delete(gone.id).deleted
    refusal = refused(openai.NotFoundError, lambda: client.files.retrieve(nameless.id))
    assert (refusal["message"], refusal["param"]) == (f"No such File object: {nameless.id}", "id"), refusal
    return file
