"""Large files in parts, through the stock client, on a folder with SQLite and on real S3 with PostgreSQL."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Event
from uuid import uuid4

import httpx
import openai
import pytest
from openai.types import FileObject, Upload
from sqlalchemy import update

from service.database.tables import RemovalRow, UploadRow
from tests.fixtures.service import RunningService, wait_until
from tests.fixtures.stored_services import StoredService, send_half_a_form

MIB = 1024 * 1024
UNKNOWN_UPLOAD = "upload_" + "0" * 32


@pytest.fixture
def service(stored_service: StoredService) -> RunningService:
    return stored_service.service


def create(service: RunningService, size: int, **options: object) -> Upload:
    defaults = {"filename": "rows.jsonl", "purpose": "fine-tune", "mime_type": "application/jsonl"}
    return service.client.uploads.create(bytes=size, **(defaults | options))  # type: ignore[arg-type]


def add_part(service: RunningService, upload: Upload, content: bytes) -> str:
    return service.client.uploads.parts.create(upload.id, data=content).id


def add_parts(service: RunningService, upload: Upload, contents: Sequence[bytes]) -> list[str]:
    """All at once; their ids in the order of the contents."""
    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(lambda content: add_part(service, upload, content), contents))


def content_of(service: RunningService, file: FileObject | None) -> bytes:
    assert file is not None
    return service.client.files.content(file.id).read()


def refusal(error: pytest.ExceptionInfo[openai.APIStatusError]) -> str:
    assert error.value.status_code == 400
    assert error.value.type == "invalid_request_error"
    assert isinstance(error.value.body, dict)
    return str(error.value.body["message"])


def test_the_clients_own_helper_uploads_a_path(service: RunningService, tmp_path: Path) -> None:
    content = os.urandom(21 * MIB)
    path = tmp_path / "training rows.jsonl"
    path.write_bytes(content)
    upload = service.client.uploads.upload_file_chunked(
        file=path,
        mime_type="application/jsonl",
        purpose="fine-tune",
        part_size=8 * MIB,
        md5=hashlib.md5(content).hexdigest(),
    )
    assert (upload.status, upload.bytes, upload.filename) == ("completed", len(content), "training rows.jsonl")
    assert upload.file is not None
    assert (upload.file.bytes, upload.file.filename, upload.file.purpose) == (
        len(content),
        "training rows.jsonl",
        "fine-tune",
    )
    assert upload.file == service.client.files.retrieve(upload.file.id)
    assert content_of(service, upload.file) == content


@pytest.mark.parametrize("size", [0, 1, 70 * MIB])
def test_the_clients_own_helper_uploads_bytes(service: RunningService, size: int) -> None:
    content = os.urandom(size)
    upload = service.client.uploads.upload_file_chunked(
        file=content, filename="rows.jsonl", bytes=size, mime_type="text/plain", purpose="evals"
    )
    assert content_of(service, upload.file) == content


def test_parts_that_arrive_at_once_are_put_in_the_order_asked_for(service: RunningService) -> None:
    contents = [os.urandom(size) for size in (1, 6 * MIB, 5, 9 * MIB, 64 * MIB, 3, 2 * MIB)]
    whole = b"".join(contents)
    upload = create(service, len(whole))
    assert (upload.status, upload.expires_at - upload.created_at, upload.file) == ("pending", 3600, None)
    part_ids = add_parts(service, upload, contents)[::-1]
    completed = service.client.uploads.complete(upload.id, part_ids=part_ids[::-1])
    assert content_of(service, completed.file) == whole


def test_a_part_that_is_not_named_stays_out_and_nothing_is_left_of_the_parts(stored_service: StoredService) -> None:
    service = stored_service.service
    upload = create(service, 3)
    part_ids = add_parts(service, upload, [b"abc", b"wrong", b"abc"])
    completed = service.client.uploads.complete(upload.id, part_ids=[part_ids[2]])
    assert content_of(service, completed.file) == b"abc"
    stored_service.wait_until_swept(upload)


def test_a_part_is_described_as_openai_does(service: RunningService) -> None:
    upload = create(service, 1)
    part = service.client.uploads.parts.create(upload.id, data=b"x")
    assert (part.object, part.upload_id) == ("upload.part", upload.id)
    assert abs(part.created_at - time.time()) < 60


def test_a_part_with_an_idempotency_key_is_taken_once(service: RunningService) -> None:
    upload = create(service, 3)
    headers = {"idempotency-key": uuid4().hex}
    first = service.client.uploads.parts.create(upload.id, data=b"abc", extra_headers=headers)
    assert service.client.uploads.parts.create(upload.id, data=b"abc", extra_headers=headers) == first
    with pytest.raises(openai.ConflictError):
        service.client.uploads.parts.create(upload.id, data=b"abd", extra_headers=headers)
    for _ in range(2):
        completed = service.client.uploads.complete(upload.id, part_ids=[first.id], extra_headers=headers)
        assert completed.status == "completed"


def test_a_wrong_total_is_refused_and_nothing_is_lost(service: RunningService) -> None:
    upload = create(service, 6)
    first = add_part(service, upload, b"abc")
    for part_ids in ([], [first]):
        with pytest.raises(openai.BadRequestError) as error:
            service.client.uploads.complete(upload.id, part_ids=part_ids)
        assert f"The parts have {3 * len(part_ids)} bytes together, but the upload was created with 6" in refusal(error)
    second = add_part(service, upload, b"def")
    too_many = add_part(service, upload, b"ghi")
    with pytest.raises(openai.BadRequestError, match="9 bytes together"):
        service.client.uploads.complete(upload.id, part_ids=[first, second, too_many])
    completed = service.client.uploads.complete(upload.id, part_ids=[first, second])
    assert content_of(service, completed.file) == b"abcdef"


def test_a_wrong_md5_is_refused_and_nothing_is_lost(service: RunningService) -> None:
    upload = create(service, 6)
    parts = add_parts(service, upload, [b"abc", b"def"])
    right = hashlib.md5(b"abcdef").hexdigest()
    for wrong in ("0" * 32, hashlib.md5(b"defabc").hexdigest()):
        with pytest.raises(openai.BadRequestError) as error:
            service.client.uploads.complete(upload.id, part_ids=parts, md5=wrong)
        assert right in refusal(error)
        assert error.value.param == "md5"
    completed = service.client.uploads.complete(upload.id, part_ids=parts, md5=right.upper())
    assert content_of(service, completed.file) == b"abcdef"


def test_parts_that_are_no_parts_of_this_upload_are_refused_alike(service: RunningService) -> None:
    upload, other = create(service, 3), create(service, 3)
    mine, foreign = add_part(service, upload, b"abc"), add_part(service, other, b"abc")
    for wrong in (foreign, "part_" + "0" * 32, "part_x", "", "../" * 100, mine.upper()):
        with pytest.raises(openai.BadRequestError) as error:
            service.client.uploads.complete(upload.id, part_ids=[wrong])
        assert refusal(error) == f"Upload {upload.id} has no part '{wrong[:100]}' - 'part_ids'"
    with pytest.raises(openai.BadRequestError, match=f"'{mine}' is given 2 times"):
        service.client.uploads.complete(upload.id, part_ids=[mine, mine])
    assert service.client.uploads.complete(upload.id, part_ids=[mine]).status == "completed"


def test_a_repeated_completion_is_answered_as_the_first_and_another_one_is_refused(service: RunningService) -> None:
    upload = create(service, 6)
    parts = add_parts(service, upload, [b"abc", b"def"])
    completed = service.client.uploads.complete(upload.id, part_ids=parts)
    assert service.client.uploads.complete(upload.id, part_ids=parts) == completed
    with pytest.raises(openai.BadRequestError, match="is completed and cannot be completed"):
        service.client.uploads.complete(upload.id, part_ids=parts[::-1])
    with pytest.raises(openai.BadRequestError, match="is completed and cannot be completed"):
        service.client.uploads.complete(upload.id, part_ids=parts, md5="0" * 32)
    assert completed.file is not None
    service.client.files.delete(completed.file.id)
    assert service.client.uploads.complete(upload.id, part_ids=parts).file is None


def test_completions_at_once_make_one_file(stored_service: StoredService) -> None:
    service = stored_service.service
    contents = [os.urandom(7 * MIB) for _ in range(3)]
    name = f"{uuid4().hex}.jsonl"
    upload = create(service, 21 * MIB, filename=name)
    parts = add_parts(service, upload, contents)
    with ThreadPoolExecutor(6) as threads:
        answers = list(
            threads.map(lambda _: service.client.uploads.complete(upload.id, part_ids=parts), range(6), timeout=120)
        )
    assert all(answer == answers[0] for answer in answers)
    assert content_of(service, answers[0].file) == b"".join(contents)
    assert [file for file in service.client.files.list() if file.filename == name] == [answers[0].file]
    stored_service.wait_until_swept(upload)


def test_of_a_completion_and_a_cancellation_at_once_one_wins(stored_service: StoredService) -> None:
    service = stored_service.service
    uploads = [create(service, 10 * MIB) for _ in range(5)]
    for upload in uploads:
        parts = add_parts(service, upload, [os.urandom(5 * MIB), os.urandom(5 * MIB)])
        with ThreadPoolExecutor(2) as threads:
            completing = threads.submit(service.client.uploads.complete, upload.id, part_ids=parts)
            cancelling = threads.submit(service.client.uploads.cancel, upload.id)
            errors = [future.exception() for future in (completing, cancelling)]
        assert sum(isinstance(error, openai.BadRequestError) for error in errors) == 1
        assert sum(error is None for error in errors) == 1
    stored_service.wait_until_swept(*uploads)


def test_a_cancelled_upload_takes_nothing_and_its_parts_are_removed(stored_service: StoredService) -> None:
    service = stored_service.service
    upload = create(service, 9 * MIB)
    part = add_part(service, upload, bytes(9 * MIB))
    assert stored_service.left_of(upload) == {f"uploads/{upload.id}/{part}"}
    for _ in range(2):
        cancelled = service.client.uploads.cancel(upload.id)
        assert (cancelled.id, cancelled.status, cancelled.file) == (upload.id, "cancelled", None)
    stored_service.wait_until_swept(upload)
    with pytest.raises(openai.BadRequestError) as error:
        add_part(service, upload, b"x")
    assert refusal(error) == f"Upload {upload.id} is cancelled and cannot take another part. Create a new upload."
    with pytest.raises(openai.BadRequestError, match="is cancelled and cannot be completed"):
        service.client.uploads.complete(upload.id, part_ids=[part])


def test_a_completed_upload_takes_no_part_and_cannot_be_cancelled(service: RunningService) -> None:
    upload = create(service, 1)
    service.client.uploads.complete(upload.id, part_ids=[add_part(service, upload, b"x")])
    with pytest.raises(openai.BadRequestError, match="is completed and cannot take another part"):
        add_part(service, upload, b"x")
    with pytest.raises(openai.BadRequestError, match="is completed and cannot be cancelled"):
        service.client.uploads.cancel(upload.id)


def test_an_upload_expires_at_once_and_its_parts_are_removed_later(stored_service: StoredService) -> None:
    service = stored_service.service
    upload = create(service, 1)
    part = add_part(service, upload, b"x")
    this_upload = update(UploadRow).where(UploadRow.id == upload.id)
    stored_service.change(this_upload.values(expires_at=time.time()))
    with pytest.raises(openai.BadRequestError) as error:
        service.client.uploads.complete(upload.id, part_ids=[part])
    assert refusal(error) == f"Upload {upload.id} is expired and cannot be completed. Create a new upload."
    with pytest.raises(openai.BadRequestError, match="is expired and cannot take another part"):
        add_part(service, upload, b"x")
    with pytest.raises(openai.BadRequestError, match="is expired and cannot be cancelled"):
        service.client.uploads.cancel(upload.id)
    assert stored_service.left_of(upload) == {f"uploads/{upload.id}/{part}"}, "a completion may still be reading"
    stored_service.change(this_upload.values(expires_at=time.time() - 3601))
    stored_service.wait_until_swept(upload)
    with pytest.raises(openai.BadRequestError, match="is expired and cannot be completed"):
        service.client.uploads.complete(upload.id, part_ids=[part])


class Late:
    """A file whose bytes come only when the test wants."""

    def __init__(self, content: bytes) -> None:
        self.has_begun, self.go_on = Event(), Event()
        self._content = BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        self.has_begun.set()
        assert self.go_on.wait(60)
        return self._content.read(size)


@contextmanager
def part_under_way(service: RunningService, upload: Upload) -> Iterator[Future[httpx.Response]]:
    """It arrives after the block."""
    late = Late(bytes(9 * MIB))
    url = f"{service.url}/v1/uploads/{upload.id}/parts"
    with ThreadPoolExecutor() as threads:
        sending = threads.submit(lambda: httpx.post(url, files={"data": late}, timeout=60))  # type: ignore[dict-item]
        assert late.has_begun.wait(60)
        try:
            yield sending
        finally:
            late.go_on.set()


def test_a_part_that_was_under_way_when_its_upload_was_cancelled_is_removed(stored_service: StoredService) -> None:
    upload = create(stored_service.service, 9 * MIB)
    with part_under_way(stored_service.service, upload) as sending:
        stored_service.service.client.uploads.cancel(upload.id)
    assert sending.result().status_code == 400
    assert "is cancelled" in sending.result().json()["error"]["message"]
    stored_service.wait_until_swept(upload)


def test_a_part_that_takes_longer_than_a_day_is_given_up(stored_service: StoredService) -> None:
    upload = create(stored_service.service, 9 * MIB)
    of_this_part = RemovalRow.key.startswith(f"uploads/{upload.id}/")
    with part_under_way(stored_service.service, upload) as sending:
        stored_service.change(update(RemovalRow).where(of_this_part).values(due_at=time.time()))
    assert sending.result().status_code == 400
    assert "took longer than 24 hours" in sending.result().json()["error"]["message"]
    stored_service.wait_until_swept(upload)


@pytest.mark.parametrize(("size", "status"), [(64 * MIB, 200), (64 * MIB + 1, 413)])
def test_a_part_has_at_most_64_mib(service: RunningService, size: int, status: int) -> None:
    upload = create(service, size)
    answer = httpx.post(f"{service.url}/v1/uploads/{upload.id}/parts", files={"data": bytes(size)}, timeout=60)
    assert answer.status_code == status
    if status != 200:
        assert "67,108,864 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ({"file": b"x"}, "file"),
        ([("data", b"x"), ("data", b"y")], "data"),
        ({"data": b"x", "colour": (None, b"red")}, "colour"),
        ({"colour": (None, b"red")}, "data"),
    ],
)
def test_a_part_with_other_fields_is_refused_by_their_names(
    service: RunningService, files: dict[str, bytes], param: str
) -> None:
    upload = create(service, 1)
    answer = httpx.post(f"{service.url}/v1/uploads/{upload.id}/parts", files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"bytes": -1}, "bytes"),
        ({"bytes": 8 * 1024**3 + 1}, "bytes"),
        ({"bytes": 1.5}, "bytes"),
        ({"bytes": "1"}, "bytes"),
        ({"bytes": True}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"filename": "x" * 256}, "filename"),
        ({"filename": 1}, "filename"),
        ({"purpose": "training"}, "purpose"),
        ({"purpose": "fine-tune-results"}, "purpose"),
        ({"mime_type": ""}, "mime_type"),
        ({"mime_type": "a\nb"}, "mime_type"),
        ({"mime_type": "x" * 256}, "mime_type"),
        ({"colour": "red"}, "colour"),
        ({"expires_after": {"seconds": 3600}}, "expires_after.anchor"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor"),
        ({"expires_after": {"anchor": "created_at", "seconds": 3599}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "created_at", "seconds": 2_592_001}}, "expires_after.seconds"),
    ],
    ids=str,
)
def test_an_upload_that_cannot_be_is_refused_by_its_field(
    service: RunningService, change: dict[str, object], param: str
) -> None:
    right = {"bytes": 1, "filename": "rows.jsonl", "purpose": "fine-tune", "mime_type": "text/plain"}
    answer = httpx.post(f"{service.url}/v1/uploads", json=right | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("size", [0, 8 * 1024**3])
def test_an_upload_may_have_no_bytes_or_8_gib(service: RunningService, size: int) -> None:
    assert create(service, size).bytes == size


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("a\\b\\rows.jsonl", "rows.jsonl"),
        ("😀 ünï.jsonl", "😀 ünï.jsonl"),
        ("a\nb\tc", "abc"),
        ("..", "upload"),
        ("x" * 255, "x" * 255),
    ],
)
def test_a_name_is_kept_without_what_is_hostile_in_it(service: RunningService, given: str, kept: str) -> None:
    assert create(service, 0, filename=given).filename == kept


def test_completions_that_cannot_be_are_refused(service: RunningService) -> None:
    upload = create(service, 0)
    for body, param in (
        ({}, "part_ids"),
        ({"part_ids": "part_x"}, "part_ids"),
        ({"part_ids": [1]}, "part_ids.0"),
        ({"part_ids": ["x"] * 10_001}, "part_ids"),
        ({"part_ids": [], "md5": "x" * 32}, "md5"),
        ({"part_ids": [], "md5": "0" * 31}, "md5"),
        ({"part_ids": [], "colour": "red"}, "colour"),
    ):
        answer = httpx.post(f"{service.url}/v1/uploads/{upload.id}/complete", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), body


@pytest.mark.parametrize("upload_id", [UNKNOWN_UPLOAD, "upload_x", "file-0123456789012345678901", "..%2f..", "%00"])
def test_an_upload_that_does_not_exist_is_not_found(service: RunningService, upload_id: str) -> None:
    url = f"{service.url}/v1/uploads/{upload_id}"
    for answer in (
        httpx.post(f"{url}/parts", files={"data": b"x"}),
        httpx.post(f"{url}/complete", json={"part_ids": []}),
        httpx.post(f"{url}/cancel"),
    ):
        assert answer.status_code == 404
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_there_is_no_way_to_read_an_upload_as_at_openai(service: RunningService) -> None:
    answer = httpx.get(f"{service.url}/v1/uploads/{create(service, 1).id}")
    assert (answer.status_code, answer.json()["error"]["message"][:11]) == (404, "Invalid URL")


def test_the_file_of_an_upload_is_kept_as_long_as_was_asked(service: RunningService) -> None:
    for options, kept in (
        ({"expires_after": {"anchor": "created_at", "seconds": 3600}}, 3600),
        ({"purpose": "batch"}, 30 * 24 * 3600),
        ({}, None),
    ):
        upload = create(service, 0, **options)
        file = service.client.uploads.complete(upload.id, part_ids=[]).file
        assert file is not None
        assert (file.expires_at and file.expires_at - file.created_at) == kept


def test_a_client_that_leaves_in_the_middle_of_a_part_leaves_nothing(stored_service: StoredService) -> None:
    service = stored_service.service
    upload = create(service, 20 * MIB)
    for sent in (1000, 20 * MIB):
        send_half_a_form(service, f"/v1/uploads/{upload.id}/parts", "data", sent)
    stored_service.wait_until_swept(upload)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(stored_service: StoredService) -> None:
    service = stored_service.service
    part, count = os.urandom(64 * MIB), 8
    upload = create(service, count * len(part))
    before = peak_memory(service)
    with ThreadPoolExecutor(4) as threads:
        part_ids = list(threads.map(lambda _: add_part(service, upload, part), range(count)))
    file = service.client.uploads.complete(upload.id, part_ids=part_ids).file
    grown = peak_memory(service) - before
    assert grown < 256 * MIB, f"{grown / MIB:.0f} MiB for a file of {count * 64} MiB"
    assert file is not None
    service.client.files.delete(file.id)


def peak_memory(service: RunningService) -> int:
    """Bytes, since the last call."""
    process = Path(f"/proc/{service.pid}")
    [peak] = [line.split()[1] for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM")]
    (process / "clear_refs").write_text("5")
    return int(peak) * 1024


def test_what_a_killed_service_had_taken_is_completed_by_the_next_and_the_rest_is_swept(
    stored_service: StoredService,
) -> None:
    service = stored_service.service
    contents = [os.urandom(9 * MIB), os.urandom(9 * MIB)]
    upload = create(service, 18 * MIB)
    first = add_part(service, upload, contents[0])
    before = len(stored_service.stored_keys())
    with ThreadPoolExecutor() as threads:
        sending = threads.submit(add_part, service, upload, bytes(60 * MIB))
        wait_until(lambda: len(stored_service.stored_keys()) > before or sending.done(), 60, "the part was not begun")
        service.kill()
        # on S3 a part shows only when it is whole, and its request may be quicker than the kill
        assert isinstance(sending.exception(), (openai.APIConnectionError, type(None)))
    service.start()
    second = add_part(service, upload, contents[1])
    completed = service.client.uploads.complete(upload.id, part_ids=[first, second])
    assert content_of(service, completed.file) == b"".join(contents)
    stored_service.change(update(RemovalRow).values(due_at=time.time()))
    stored_service.wait_until_swept(upload)


def test_a_completion_that_was_killed_is_repeated(stored_service: StoredService) -> None:
    service = stored_service.service
    content, name = os.urandom(40 * MIB), f"{uuid4().hex}.jsonl"
    upload = create(service, 4 * 40 * MIB, filename=name)
    parts = add_parts(service, upload, [content] * 4)
    before = len(stored_service.stored_keys())
    md5 = hashlib.md5(content * 4).hexdigest()
    with ThreadPoolExecutor() as threads:
        completing = threads.submit(service.client.uploads.complete, upload.id, part_ids=parts, md5=md5)
        wait_until(lambda: len(stored_service.stored_keys()) > before or completing.done(), 60, "it was not begun")
        service.kill()
        error = completing.exception()
    assert isinstance(error, (openai.APIConnectionError, type(None)))  # it may have been quicker
    service.start()
    assert (name in [file.filename for file in service.client.files.list()]) == (error is None)
    completed = service.client.uploads.complete(upload.id, part_ids=parts, md5=md5)
    stored_service.change(update(RemovalRow).values(due_at=time.time()))
    stored_service.wait_until_swept(upload)
    assert completed.file is not None
    assert completed.file.bytes == 4 * 40 * MIB
