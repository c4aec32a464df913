"""The files API through the stock client and, where the client cannot say it, through plain HTTP."""

import hashlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from tests.fixtures.service import RunningService, StartService
from tests.fixtures.stored_services import StoredService, send_half_a_form


def test_an_uploaded_file_reads_back_as_it_was(service: RunningService) -> None:
    content = b'{"a": "\xc3\xa4"}\r\n' * 1000
    file = service.client.files.create(file=("my rows.jsonl", content), purpose="fine-tune")
    assert (file.bytes, file.filename, file.purpose, file.status) == (
        len(content),
        "my rows.jsonl",
        "fine-tune",
        "processed",
    )
    assert service.client.files.retrieve(file.id) == file
    assert service.client.files.content(file.id).read() == content


def test_bytes_without_a_name_are_taken(service: RunningService) -> None:
    file = service.client.files.create(file=b"{}\n", purpose="fine-tune")
    assert file.filename == "upload"


def test_curl_can_upload_with_the_fields_in_any_order(service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n")
    command = [
        "curl",
        "-sS",
        "--fail-with-body",
        f"{service.url}/v1/files",
        "-F",
        f"file=@{path}",
        "-F",
        "purpose=fine-tune",
    ]
    answer = subprocess.run(command, capture_output=True, check=True, text=True)
    assert '"filename":"rows.jsonl"' in answer.stdout


def test_a_path_in_a_file_name_is_no_path(service: RunningService) -> None:
    file = service.client.files.create(file=("../../etc/passwd", b"{}\n"), purpose="fine-tune")
    assert file.filename == "passwd"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a/b\\c.jsonl", "c.jsonl"),
        ("😀 ünï.jsonl", "😀 ünï.jsonl"),
        ("..", "upload"),
        ("' OR 1=1; --", "' OR 1=1; --"),
        ("😀" * 255, "😀" * 255),
    ],
)
def test_a_name_is_kept_without_what_is_hostile_in_it(service: RunningService, given: str, kept: str) -> None:
    assert service.client.files.create(file=(given, b"{}\n"), purpose="evals").filename == kept


@pytest.mark.parametrize("length", [256, 10_000])
def test_a_name_that_is_too_long_is_refused_with_the_limit(service: RunningService, length: int) -> None:
    with pytest.raises(openai.BadRequestError, match="at most 255 characters") as error:
        service.upload(b"{}\n", filename="x" * length)
    assert error.value.param == "file"


def test_two_deletions_at_once_delete_once(service: RunningService) -> None:
    file_id = service.upload(b"{}\n")
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: httpx.delete(f"{service.url}/v1/files/{file_id}").status_code, range(8)))
    assert sorted(statuses) == [200] + [404] * 7


@pytest.mark.parametrize("sent", [0, 1000, 20_000_000])
def test_a_client_that_leaves_in_the_middle_leaves_nothing(stored_service: StoredService, sent: int) -> None:
    send_half_a_form(stored_service.service, "/v1/files", "file", sent)
    stored_service.wait_until_swept()


@pytest.mark.parametrize(
    ("range_header", "status", "content", "content_range"),
    [
        ("bytes=2-5", 206, b"2345", "bytes 2-5/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=5-100", 206, b"56789", "bytes 5-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=5-2", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_a_range_of_the_content_can_be_read(
    service: RunningService, range_header: str, status: int, content: bytes | None, content_range: str | None
) -> None:
    file_id = service.upload(b"0123456789")
    answer = httpx.get(f"{service.url}/v1/files/{file_id}/content", headers={"range": range_header})
    assert answer.status_code == status
    assert answer.headers.get("content-range") == content_range
    if content is not None:
        assert answer.content == content


def test_a_deleted_file_is_gone_at_once_and_twice(service: RunningService) -> None:
    file_id = service.upload(b"{}\n")
    deleted = service.client.files.delete(file_id)
    assert (deleted.id, deleted.object, deleted.deleted) == (file_id, "file", True)
    for call in (service.client.files.retrieve, service.client.files.content, service.client.files.delete):
        with pytest.raises(openai.NotFoundError) as error:
            call(file_id)
        assert error.value.body == {
            "message": f"No such File object: {file_id}",
            "type": "invalid_request_error",
            "param": "id",
            "code": None,
        }
    assert file_id not in [file.id for file in service.client.files.list()]


def test_files_are_listed_newest_first_page_by_page(service: RunningService) -> None:
    made = [service.upload(b"{}\n", purpose="evals") for _ in range(5)]
    page = service.client.files.list(purpose="evals", limit=2)
    assert [file.id for file in page.data] == [made[4], made[3]]
    assert page.has_more
    assert [file.id for file in service.client.files.list(purpose="evals", limit=2)][:5] == made[::-1]
    oldest_first = service.client.files.list(purpose="evals", order="asc", after=made[1], limit=2)
    assert [file.id for file in oldest_first.data] == [made[2], made[3]]


def test_a_deleted_file_stays_a_cursor_and_an_unknown_one_gives_an_empty_page(service: RunningService) -> None:
    older, newer = service.upload(b"1"), service.upload(b"2")
    service.client.files.delete(newer)
    assert service.client.files.list(after=newer, limit=1).data[0].id == older
    for page in (
        service.client.files.list(after="file-unknown"),
        service.client.files.list(purpose="nothing"),
        service.client.files.list(limit=0),
    ):
        assert (page.data, page.has_more) == ([], False)


def test_a_wrong_purpose_is_refused_with_the_right_ones(service: RunningService) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        service.upload(b"{}\n", purpose="training")
    assert "'training' is not one of ['fine-tune', " in error.value.message
    assert error.value.param == "purpose"


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ({"purpose": (None, "fine-tune")}, "file"),
        ({"file": ("a.jsonl", b"{}")}, "purpose"),
        ({"file": ("a.jsonl", b"{}"), "purpose": (None, "fine-tune"), "colour": (None, "red")}, "colour"),
        (
            {"file": ("a.jsonl", b"{}"), "purpose": (None, "batch"), "expires_after[seconds]": (None, "3600")},
            "expires_after",
        ),
    ],
)
def test_a_form_with_a_missing_or_unknown_field_is_refused_by_its_name(
    service: RunningService, parts: dict[str, tuple[str | None, str | bytes]], param: str
) -> None:
    answer = httpx.post(f"{service.url}/v1/files", files=parts)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


def test_what_is_no_form_is_refused(service: RunningService) -> None:
    for content_type in ("application/json", "multipart/form-data", "multipart/form-data; boundary=x"):
        answer = httpx.post(f"{service.url}/v1/files", content=b"{}", headers={"content-type": content_type})
        assert answer.status_code == 400
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_file_over_the_limit_is_refused_and_leaves_nothing(start_service: StartService, tmp_path: Path) -> None:
    service = start_service(tmp_path / "data", serving="off", max_file_bytes="1000")
    with pytest.raises(openai.APIStatusError) as error:
        service.upload(b"x" * 1001)
    assert error.value.status_code == 413
    assert "1000" in error.value.message.replace(",", "")
    assert service.client.files.list().data == []
    assert list((tmp_path / "data" / "objects").rglob("file-*")) == []
    service.upload(b"x" * 1000)


def test_a_large_file_arrives_whole(service: RunningService, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        for number in range(40):
            file.write(bytes([65 + number % 26]) * 1_000_000)
    with path.open("rb") as file:
        uploaded = service.client.files.create(file=file, purpose="fine-tune")
    digest = hashlib.sha256()
    with service.client.files.with_streaming_response.content(uploaded.id) as answer:
        for chunk in answer.iter_bytes():
            digest.update(chunk)
    assert digest.digest() == hashlib.sha256(path.read_bytes()).digest()
