"""Files that are deleted by themselves: gone in the second that was said, their bytes a little later."""

import time
from typing import Any

import httpx
import openai
import pytest
from openai.types import FileObject
from sqlalchemy import update

from service.database.tables import FileRow
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, wait_until
from tests.fixtures.stored_services import SWEEP_SECONDS, StoredService

DAY = 24 * 60 * 60


@pytest.fixture
def service(stored_service: StoredService) -> RunningService:
    return stored_service.service


def create(service: RunningService, seconds: int | None = None, purpose: Any = "fine-tune") -> FileObject:
    return service.client.files.create(
        file=("rows.jsonl", to_jsonl(chat_rows(3))),
        purpose=purpose,
        expires_after=openai.omit if seconds is None else {"anchor": "created_at", "seconds": seconds},
    )


def make_expired(stored_service: StoredService, file: FileObject) -> None:
    stored_service.change(update(FileRow).where(FileRow.id == file.id).values(expires_at=time.time()))


@pytest.mark.parametrize("seconds", [3600, 2_592_000])
def test_a_file_says_when_it_expires(service: RunningService, seconds: int) -> None:
    file = create(service, seconds)
    assert file.expires_at == file.created_at + seconds
    assert service.client.files.retrieve(file.id) == file
    assert next(iter(service.client.files.list(limit=1))) == file


@pytest.mark.parametrize(
    ("purpose", "kept"),
    [
        ("batch", 30 * DAY),
        ("fine-tune", None),
        ("assistants", None),
        ("vision", None),
        ("user_data", None),
        ("evals", None),
    ],
)
def test_files_are_kept_unless_they_are_batch_files(service: RunningService, purpose: str, kept: int | None) -> None:
    file = create(service, purpose=purpose)
    assert (file.expires_at and file.expires_at - file.created_at) == kept
    shown = httpx.get(f"{service.url}/v1/files/{file.id}").json()
    assert ("expires_at" in shown) == (kept is not None)


def test_a_batch_file_may_say_otherwise(service: RunningService) -> None:
    file = create(service, 3600, "batch")
    assert file.expires_at == file.created_at + 3600


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"[anchor]": "created_at"}, "Missing required parameter: 'seconds'.", "expires_after.seconds"),
        ({"[seconds]": "3600"}, "Missing required parameter: 'anchor'.", "expires_after.anchor"),
        ({"[anchor]": "now", "[seconds]": "3600"}, "'now' is not one of", "expires_after.anchor"),
        ({"[anchor]": "created_at", "[seconds]": "3599"}, "less than the minimum of 3600", "expires_after.seconds"),
        ({"[anchor]": "created_at", "[seconds]": "2592001"}, "maximum of 2592000", "expires_after.seconds"),
        ({"[anchor]": "created_at", "[seconds]": "1" * 5000}, "'seconds'", "expires_after.seconds"),
        ({"[anchor]": "created_at", "[seconds]": "soon"}, "'seconds'", "expires_after.seconds"),
        ({"[anchor]": "created_at", "[seconds]": "NaN"}, "'seconds'", "expires_after.seconds"),
        ({"[colour]": "red"}, "Unknown parameter: 'expires_after[colour]'.", "expires_after[colour]"),
        ({"": "3600"}, "Unknown parameter: 'expires_after'.", "expires_after"),
    ],
)
def test_an_expiry_that_cannot_be_is_refused_by_its_field(
    service: RunningService, fields: dict[str, str], message: str, param: str
) -> None:
    parts = {f"expires_after{name}": (None, value) for name, value in fields.items()}
    form = {"purpose": (None, "fine-tune"), "file": ("rows.jsonl", b"{}"), **parts}
    answer = httpx.post(f"{service.url}/v1/files", files=form)  # type: ignore[arg-type]
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["param"] == param


def test_an_expired_file_is_gone_everywhere_at_once(stored_service: StoredService, service: RunningService) -> None:
    older, file = create(service), create(service, 3600)
    make_expired(stored_service, file)
    for call in (service.client.files.retrieve, service.client.files.content, service.client.files.delete):
        with pytest.raises(openai.NotFoundError, match=f"No such File object: {file.id}"):
            call(file.id)
    assert file.id not in [each.id for each in service.client.files.list()]
    assert service.client.files.list(after=file.id, limit=1).data == [older], "it stays a cursor"
    with pytest.raises(openai.BadRequestError, match="does not exist") as error:
        service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file.id)
    assert error.value.param == "training_file"


def test_the_bytes_of_a_file_go_when_it_expires_or_is_deleted(
    stored_service: StoredService, service: RunningService
) -> None:
    kept, expired, deleted = create(service, 3600), create(service, 3600), create(service, 3600)
    assert {f"files/{file.id}" for file in (kept, expired, deleted)} <= stored_service.stored_keys()
    make_expired(stored_service, expired)
    service.client.files.delete(deleted.id)
    stored_service.wait_until_swept()
    assert f"files/{kept.id}" in stored_service.stored_keys()
    assert service.client.files.content(kept.id).read() == to_jsonl(chat_rows(3))


def test_a_file_that_expires_while_the_service_is_down_is_swept_by_the_next(
    stored_service: StoredService, service: RunningService
) -> None:
    file = create(service, 3600)
    service.kill()
    make_expired(stored_service, file)
    service.start()
    wait_until(lambda: f"files/{file.id}" not in stored_service.stored_keys(), SWEEP_SECONDS, "the file was not swept")


def test_a_job_whose_file_expired_before_it_was_read_says_so(
    stored_service: StoredService, service: RunningService
) -> None:
    file = service.client.files.retrieve(service.upload(to_jsonl(chat_rows(10))))
    job = service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file.id)
    service.kill()  # long before the file's rows are checked
    make_expired(stored_service, file)
    service.start()
    failed = service.wait_for_job(job.id)
    assert (failed.status, failed.error and failed.error.code) == ("failed", "deleted_training_file")
