"""`fettle storage check` tells whether a storage can be used, in plain words and by its exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.object_storage.checks import run_checks
from service.object_storage.s3_client import new_client
from tests.fixtures.bad_wire import Answer, bad_wire
from tests.fixtures.object_storage import S3Bucket, StorageUnderTest


def check(**settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {name.upper(): value for name, value in settings.items()}
    command = [str(Path(sys.executable).parent / "fettle"), "storage", "check"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


async def test_every_storage_of_ours_passes_and_nothing_is_left_in_it(stored: StorageUnderTest) -> None:
    checks = [each async for each in run_checks(stored.storage)]
    assert [each for each in checks if each.failure is not None] == []
    assert len(checks) == 9
    assert [found async for found in stored.storage.list("checks/")] == []
    assert stored.unfinished() == 0


def test_a_good_bucket_is_a_zero(s3_bucket: S3Bucket) -> None:
    checked = check(
        fettle_storage_uri=f"s3://{s3_bucket.name}/some/prefix", fettle_s3_endpoint_url=s3_bucket.endpoint_url
    )
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("\nok ") == 9
    assert checked.stdout.endswith("The storage can be used.\n")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fettle_storage_uri": "s3://fettle-no-such-bucket"}, "make the bucket first"),
        ({"aws_secret_access_key": "wrong"}, "AWS_SECRET_ACCESS_KEY is wrong"),
        ({"aws_access_key_id": "nobody"}, "AWS_ACCESS_KEY_ID is not known"),
        ({"fettle_s3_endpoint_url": "http://127.0.0.1:9"}, "FETTLE_S3_ENDPOINT_URL must name the server"),
        (
            {"fettle_s3_endpoint_url": "http://127.0.0.1:9", "fettle_storage_uri": "s3://area-403"},
            "FETTLE_S3_ENDPOINT_URL must name the server",
        ),
    ],
)
def test_a_bad_one_is_a_one_with_the_remedy(s3_bucket: S3Bucket, settings: dict[str, str], words: str) -> None:
    good = {"fettle_storage_uri": f"s3://{s3_bucket.name}/p", "fettle_s3_endpoint_url": s3_bucket.endpoint_url}
    checked = check(**good | settings)
    assert checked.returncode == 1, checked.stdout
    assert words in checked.stdout
    assert "Traceback" not in checked.stderr


@pytest.mark.parametrize(
    ("name", "value"), [("storage_uri", "gs://bucket"), ("s3_endpoint_url", "minio:9000"), ("s3_endpoint_url", "")]
)
def test_settings_that_cannot_be_used_are_a_two(name: str, value: str) -> None:
    checked = check(**{"fettle_storage_uri": "s3://bucket", f"fettle_{name}": value})
    assert checked.returncode == 2
    assert checked.stderr.startswith(f"fettle: setting {name}: ")


def test_a_server_that_ignores_conditions_fails_that_check_alone(s3_bucket: S3Bucket) -> None:
    with bad_wire(s3_bucket.endpoint_url) as wire:
        wire.spoil_answer = lambda _, answer: Answer(200, {"ETag": '"x"'}, b"") if answer.status == 412 else answer
        checked = check(fettle_storage_uri=f"s3://{s3_bucket.name}/p", fettle_s3_endpoint_url=wire.url)
    assert checked.returncode == 1
    assert checked.stdout.count("FAILED  ") == 1
    assert "If-None-Match" in checked.stdout.split("FAILED  ")[1]


@pytest.mark.parametrize(
    ("endpoint", "style", "url"),
    [
        ("https://s3.example.org", None, "https://s3.example.org/bucket/key"),
        ("https://s3.example.org", "path", "https://s3.example.org/bucket/key"),
        ("https://s3.example.org", "virtual", "https://bucket.s3.example.org/key"),
        (None, None, "https://bucket.s3.amazonaws.com/key"),
        (None, "path", "https://s3.amazonaws.com/bucket/key"),
    ],
)
def test_an_object_is_addressed_as_the_setting_says(endpoint: str | None, style: str | None, url: str) -> None:
    client = new_client({"endpoint_url": endpoint, "region": "us-east-1", "addressing_style": style})  # type: ignore[typeddict-item]
    signed = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
    assert signed.partition("?")[0] == url
