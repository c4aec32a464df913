"""The same job with all its data on a real S3 server: upload, validation, training, adapter, answer."""

import base64
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from tests.fixtures.environment import require_environment
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import StartService

JOB_SECONDS = 300  # training, and the start of vLLM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system"),
]


def test_a_job_on_s3_ends_in_a_model_that_answers(start_service: StartService, tmp_path: Path) -> None:
    endpoint = require_environment("FETTLE_TEST_S3_ENDPOINT", "a real S3 server")
    bucket = f"fettle-{uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    service = start_service(
        tmp_path / "data",
        storage_uri=f"s3://{bucket}/one/two",
        s3_endpoint_url=endpoint,
        s3_region="us-east-1",
        serving_wait="PT300S",
        result_files_base64="true",
    )
    job = service.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=service.upload(to_jsonl(chat_rows(16))),
        validation_file=service.upload(to_jsonl(chat_rows(20)[16:])),
        hyperparameters={"n_epochs": 1, "batch_size": 4},
    )
    job = service.wait_for_job(job.id, timeout=JOB_SECONDS)
    assert job.status == "succeeded", service.describe(job.id)
    assert not [event.message for event in service.events(job.id) if event.level == "warn"]
    result_file = service.client.files.content(job.result_files[0]).text
    assert base64.b64decode(result_file, validate=True).startswith(b"step,train_loss"), "as the setting asks"
    assert job.fine_tuned_model is not None
    answer = service.client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "What is 3 plus one?"}], max_tokens=8
    )
    assert answer.model == job.fine_tuned_model
    assert not (service.data_dir / "objects").exists(), "something was kept in the folder"
