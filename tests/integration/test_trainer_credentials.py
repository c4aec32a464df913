"""A trainer with credentials of its own and the policy of docs/storage.md: it can train, and nothing else."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from service.object_storage import open_storage
from tests.fixtures.environment import require_environment
from tests.fixtures.object_storage import S3Bucket, new_bucket, stream_of
from tests.fixtures.tiny_model import build_tiny_model
from tests.fixtures.training_job import write_job
from tuning.contract import RESULT_NAME, JobResult

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DOCUMENT = Path(__file__).parents[2] / "docs" / "storage.md"
USER = "fettle-trainer"


def documented_json(heading: str, names: Mapping[str, str] | None = None) -> Any:
    """The first JSON document under a heading of docs/storage.md, with its names replaced."""
    section = DOCUMENT.read_text().split(f"# {heading}\n", 1)[1]
    text = section.split("```json\n", 1)[1].split("```", 1)[0]
    for name, value in (names or {}).items():
        text = text.replace(name, value)
    return json.loads(text)


@pytest.fixture(scope="module")
def keys() -> dict[str, str]:
    """Of the user `fettle-trainer`, who owns no bucket."""
    what = "a second user of the S3 server, fettle-trainer"
    return {
        "AWS_ACCESS_KEY_ID": require_environment("FETTLE_TEST_S3_TRAINER_ACCESS_KEY_ID", what),
        "AWS_SECRET_ACCESS_KEY": require_environment("FETTLE_TEST_S3_TRAINER_SECRET_ACCESS_KEY", what),
    }


@pytest.fixture(scope="module")
def bucket(keys: dict[str, str]) -> Iterator[S3Bucket]:
    for bucket in new_bucket():
        owner = bucket.resource.Acl().owner["ID"]
        names = {"BUCKET": bucket.name, "PREFIX": "fettle", 'user/fettle"': f'user/{owner}"'}
        policy = documented_json("Ceph", names)
        bucket.resource.Policy().put(Policy=json.dumps(policy))
        yield bucket


@pytest.fixture(scope="module")
def trainers_client(bucket: S3Bucket, keys: dict[str, str]) -> "S3Client":
    return boto3.client(
        "s3",
        endpoint_url=bucket.endpoint_url,
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )


@pytest.mark.slow
async def test_a_run_with_the_trainers_own_keys_ends_with_an_adapter(
    bucket: S3Bucket, keys: dict[str, str], tmp_path: Path
) -> None:
    storage = open_storage(f"s3://{bucket.name}/fettle", endpoint_url=bucket.endpoint_url)
    build_tiny_model(tmp_path / "model")
    job = write_job(tmp_path / "job", tmp_path / "model")
    await storage.put("files/file-1", stream_of((tmp_path / "job" / "training.jsonl").read_bytes()))
    places = {
        "training_data": job.spec.training_data.model_copy(update={"uri": storage.uri("files/file-1")}),
        "output_uri": storage.uri("jobs/ftjob-test/attempts/1"),
        "adapters_uri": storage.uri("adapters"),
        "logs_uri": storage.uri("jobs/ftjob-test/logs"),
    }
    spec = job.spec.model_copy(update=places)
    await storage.put_bytes("jobs/ftjob-test/attempts/1/spec.json", spec.model_dump_json().encode())

    trainer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "trainer_image", storage.uri("jobs/ftjob-test/attempts/1/spec.json")),
        cwd=DOCUMENT.parents[1],
        env={**os.environ, **keys, "AWS_ENDPOINT_URL_S3": bucket.endpoint_url, "FETTLE_WORK_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    _, log = await trainer.communicate()

    assert trainer.returncode == 0, log.decode()
    content = await storage.get_bytes(f"jobs/ftjob-test/attempts/1/{RESULT_NAME}")
    result = JobResult.model_validate_json(content)
    assert result.error is None
    assert [found.bytes async for found in storage.list(f"adapters/{result.adapter_sha256}/")]
    assert [found.key async for found in storage.list("jobs/ftjob-test/logs/")]
    await storage.delete_prefix("jobs/ftjob-test/")  # what another user wrote: the policy must let the service do that
    assert [found.key async for found in storage.list("jobs/")] == []


REFUSED: dict[str, Callable[["S3Client", str], Any]] = {
    "write a file": lambda s3, bucket: s3.put_object(Bucket=bucket, Key="fettle/files/file-1", Body=b""),
    "write outside the prefix": lambda s3, bucket: s3.put_object(Bucket=bucket, Key="other/jobs/x", Body=b""),
    "write a batch": lambda s3, bucket: s3.put_object(Bucket=bucket, Key="fettle/batches/x", Body=b""),
    "read a batch": lambda s3, bucket: s3.get_object(Bucket=bucket, Key="fettle/batches/1"),
    "read an upload's part": lambda s3, bucket: s3.get_object(Bucket=bucket, Key="fettle/uploads/1"),
    "delete a run": lambda s3, bucket: s3.delete_object(Bucket=bucket, Key="fettle/jobs/1"),
    "delete an adapter": lambda s3, bucket: s3.delete_object(Bucket=bucket, Key="fettle/adapters/1"),
    "delete a file": lambda s3, bucket: s3.delete_object(Bucket=bucket, Key="fettle/files/1"),
    "change the policy": lambda s3, bucket: s3.put_bucket_policy(Bucket=bucket, Policy="{}"),
    "change the lifecycle": lambda s3, bucket: s3.delete_bucket_lifecycle(Bucket=bucket),
    "delete the bucket": lambda s3, bucket: s3.delete_bucket(Bucket=bucket),
}


@pytest.mark.parametrize("what", REFUSED)
def test_everything_else_is_refused(bucket: S3Bucket, trainers_client: "S3Client", what: str) -> None:
    for key in ("files/1", "jobs/1", "adapters/1", "batches/1", "uploads/1"):
        bucket.resource.put_object(Key=f"fettle/{key}", Body=b"content")
    with pytest.raises(ClientError, match="AccessDenied"):
        REFUSED[what](trainers_client, bucket.name)


def test_what_is_allowed_does_not_let_it_see_what_is_missing_as_forbidden(
    bucket: S3Bucket, trainers_client: "S3Client"
) -> None:
    with pytest.raises(ClientError, match="NoSuchKey"):
        trainers_client.get_object(Bucket=bucket.name, Key="fettle/jobs/none")


def test_the_documented_lifecycle_is_one_that_the_server_takes(bucket: S3Bucket) -> None:
    lifecycle = documented_json("Lifecycle", {"PREFIX": "fettle"})
    bucket.resource.LifecycleConfiguration().put(LifecycleConfiguration=lifecycle)
    assert {rule["ID"] for rule in bucket.resource.LifecycleConfiguration().rules} == {
        "fettle-unfinished-uploads",
        "fettle-old-versions",
    }


def test_the_policies_of_amazon_and_ceph_give_trainers_the_same() -> None:
    statements = documented_json("Ceph")["Statement"]
    trainers = [each for each in statements if each.pop("Principal") == {"AWS": [f"arn:aws:iam:::user/{USER}"]}]
    assert trainers == documented_json("Amazon")["Statement"]
