"""Uploads: in parts, by the SDK's own splitting, and given up."""

import hashlib
from pathlib import Path

import openai
from strict import client, refused


def check(rows: Path) -> None:
    content = rows.read_bytes()
    md5 = hashlib.md5(content).hexdigest()
    whole = client.uploads.upload_file_chunked(
        file=rows, mime_type="application/jsonl", purpose="fine-tune", part_size=100, md5=md5
    )
    assert (whole.status, whole.bytes, whole.filename) == ("completed", len(content), rows.name), whole
    assert client.files.content(whole.file.id).read() == content
    assert client.files.delete(whole.file.id).deleted

    upload = client.uploads.create(
        filename="two.jsonl", purpose="fine-tune", bytes=len(content), mime_type="application/jsonl"
    )
    assert (upload.status, upload.file, upload.expires_at) == ("pending", None, upload.created_at + 3600), upload
    # the end arrives first
    end, start = (client.uploads.parts.create(upload.id, data=data) for data in (content[50:], content[:50]))
    assert end.upload_id == upload.id, end
    refused(openai.BadRequestError, lambda: client.uploads.complete(upload.id, part_ids=[start.id]))
    done = client.uploads.complete(upload.id, part_ids=[start.id, end.id], md5=md5)
    assert client.files.content(done.file.id).read() == content
    assert client.files.delete(done.file.id).deleted

    unwanted = client.uploads.create(filename="no.jsonl", purpose="batch", bytes=1, mime_type="text/plain")
    assert client.uploads.cancel(unwanted.id).status == "cancelled"
    refused(openai.BadRequestError, lambda: client.uploads.parts.create(unwanted.id, data=b"x"))
