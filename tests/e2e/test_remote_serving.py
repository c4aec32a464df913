"""A service whose models somebody else serves: one real vLLM, started as the serving image starts it, data on S3."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from tests.fixtures.object_storage import S3Bucket, new_bucket
from tests.fixtures.relay import Relay
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, free_port
from tuning.catalogue import DEFAULT_CATALOGUE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system"),
]

KEY = "sk-between-the-service-and-vllm"
SERVED, UNSERVED, MISPLACED = "fettle-tiny", "only-tuned", "elsewhere"
WAIT_SECONDS = 300  # for the start of vLLM on a machine that does other things too


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Bucket]:
    yield from new_bucket()


@pytest.fixture(scope="module")
def models_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three names of the same model: one is served, one is not, and the address of the third is the first one's."""
    [entry] = [each for each in yaml.safe_load(DEFAULT_CATALOGUE.read_text())["models"] if each["name"] == SERVED]
    entry["source"] = str((DEFAULT_CATALOGUE.parent / entry["source"]).resolve())
    if entry.get("chat_template"):
        entry["chat_template"] = str((DEFAULT_CATALOGUE.parent / entry["chat_template"]).resolve())
    path = tmp_path_factory.mktemp("catalogue") / "models.yaml"
    path.write_text(yaml.safe_dump({"models": [{**entry, "name": name} for name in (SERVED, UNSERVED, MISPLACED)]}))
    return path


@pytest.fixture(scope="module")
def relay(bucket: S3Bucket, models_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """Before a vLLM that is still starting."""
    folder, port = tmp_path_factory.mktemp("vllm"), free_port()
    environment = os.environ | {
        "FETTLE_MODELS_FILE": str(models_file),
        "FETTLE_BASE_MODEL": SERVED,
        "FETTLE_ADAPTERS_URI": f"s3://{bucket.name}/fettle/adapters",
        "FETTLE_ADAPTER_CACHE_DIR": str(folder / "adapters"),
        "VLLM_API_KEY": KEY,
        "AWS_ENDPOINT_URL_S3": bucket.endpoint_url,
    }
    with (folder / "log").open("wb") as log:
        vllm = subprocess.Popen(
            [sys.executable, "-m", "serving_image", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    relay = Relay(port)
    try:
        yield relay
    finally:
        relay.stop()
        os.killpg(vllm.pid, signal.SIGKILL)
        vllm.wait()


@pytest.fixture(scope="module")
def services(
    bucket: S3Bucket, models_file: Path, relay: Relay, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, RunningService]]:
    settings = {
        **bucket.settings,
        "models_file": str(models_file),
        "serving": "remote",
        "vllm_urls": json.dumps({SERVED: f"{relay.url}/", MISPLACED: relay.url}),
    }
    folder = tmp_path_factory.mktemp("services")
    made = {
        "patient": RunningService(
            folder / "patient", **settings, vllm_api_key=KEY, serving_wait=str(WAIT_SECONDS), poll_interval="0.2"
        ),
        "impatient": RunningService(folder / "impatient", **settings, vllm_api_key=KEY, serving_wait="0.5"),
        "with a wrong key": RunningService(folder / "wrong", **settings, vllm_api_key="wrong", serving_wait="10"),
    }
    try:
        for service in made.values():
            service.start()
        yield made
    finally:
        for service in made.values():
            service.clean_up()


@pytest.fixture(scope="module")
def service(services: dict[str, RunningService]) -> RunningService:
    return services["patient"]


def say(service: RunningService, model: str = SERVED, **options: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": "Turn on the light in the kitchen."}]
    options = {"max_tokens": 16, "temperature": 0} | options
    return service.client.chat.completions.create(model=model, messages=messages, timeout=WAIT_SECONDS, **options)


def assert_unavailable(service: RunningService, code: str, words: str, model: str = SERVED) -> None:
    with pytest.raises(openai.InternalServerError, match=words) as raised:
        say(service, model)
    assert (raised.value.status_code, raised.value.code) == (503, code)
    assert int(raised.value.response.headers["retry-after"]) > 0
    assert KEY not in raised.value.response.text and "127.0.0.1" not in raised.value.response.text


def test_requests_wait_for_a_vllm_that_is_starting_and_are_told_when_it_takes_too_long(
    services: dict[str, RunningService],
) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(say, services["patient"]) for _ in range(3)]
        assert_unavailable(services["impatient"], "model_loading", "is being loaded")
        assert len({each.result().choices[0].message.content for each in waiting}) == 1


def test_a_job_ends_with_a_model_that_answers_through_the_remote_vllm(service: RunningService) -> None:
    job = service.client.fine_tuning.jobs.create(
        model=SERVED,
        training_file=service.upload(to_jsonl(chat_rows(16))),
        hyperparameters={"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 20},
    )
    job = service.wait_for_job(job.id, timeout=WAIT_SECONDS)
    assert job.status == "succeeded", service.describe(job.id)
    assert [event.message for event in service.events(job.id) if event.level != "info"] == []
    assert job.fine_tuned_model is not None
    tuned, base = say(service, job.fine_tuned_model), say(service)
    assert (tuned.model, base.model) == (job.fine_tuned_model, SERVED)
    assert tuned.choices[0].message.content != base.choices[0].message.content


def test_a_model_without_an_address_is_tuned_and_every_use_of_it_is_told_so(service: RunningService) -> None:
    job = service.client.fine_tuning.jobs.create(
        model=UNSERVED,
        training_file=service.upload(to_jsonl(chat_rows(10))),
        hyperparameters={"n_epochs": 1, "batch_size": 10},
    )
    job = service.wait_for_job(job.id, timeout=WAIT_SECONDS)
    assert job.status == "succeeded", service.describe(job.id)
    assert [event.message for event in service.events(job.id) if event.level != "info"] == []
    assert job.fine_tuned_model is not None
    for name in (UNSERVED, job.fine_tuned_model):
        with pytest.raises(openai.BadRequestError, match=r"tuned but not served here: .* FETTLE_VLLM_URLS") as no:
            say(service, name)
        assert (no.value.code, no.value.param) == ("model_not_served", "model")
    served = {model.id: model.model_dump()["is_served"] for model in service.client.models.list()}
    assert (served[SERVED], served[UNSERVED], served[job.fine_tuned_model]) == (True, False, False)
    assert not service.client.models.retrieve(UNSERVED).model_dump()["is_served"]
    assert batch_errors(service, UNSERVED) == ["model_not_served"]
    grader: Any = {
        "type": "score_model",
        "name": "grade",
        "model": UNSERVED,
        "input": [{"role": "user", "content": "x"}],
        "range": [0, 1],
    }
    with pytest.raises(openai.BadRequestError, match="FETTLE_VLLM_URLS"):
        service.client.fine_tuning.alpha.graders.validate(grader=grader)
        service.client.fine_tuning.alpha.graders.run(grader=grader, model_sample="x")


def batch_errors(service: RunningService, model: str) -> list[str | None]:
    line = {
        "custom_id": "one",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    }
    file = service.upload(json.dumps(line).encode(), purpose="batch")
    batch = service.client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status not in ("failed", "completed"):
        batch = service.client.batches.retrieve(batch.id)
    return [error.code for error in batch.errors.data or []] if batch.errors is not None else []


def test_a_batch_is_answered_by_the_remote_vllm(service: RunningService) -> None:
    assert batch_errors(service, SERVED) == []


def test_a_wrong_key_and_a_wrong_address_are_named_at_once(services: dict[str, RunningService]) -> None:
    assert_unavailable(services["with a wrong key"], "model_not_loaded", r"refuses the key .* FETTLE_VLLM_API_KEY")
    words = f"FETTLE_VLLM_URLS belongs to another server, which serves {SERVED}"
    assert_unavailable(services["patient"], "model_not_loaded", words, MISPLACED)


def test_a_dead_vllm_is_waited_for_until_it_lives_again(services: dict[str, RunningService], relay: Relay) -> None:
    before = say(services["patient"]).choices[0].message.content
    relay.stop()
    try:
        assert_unavailable(services["impatient"], "model_loading", "nobody answers at its address")
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(say, services["patient"])
            assert_unavailable(services["impatient"], "model_loading", "nobody answers")
            assert not waiting.done()
            relay.start()
            assert waiting.result().choices[0].message.content == before
    finally:
        relay.stop()
        relay.start()


def test_a_stream_that_breaks_off_ends_with_an_error_and_is_not_asked_again(
    service: RunningService, relay: Relay
) -> None:
    try:
        stream = say(service, stream=True, max_tokens=400, extra_body={"ignore_eos": True})
        next(iter(stream))
        relay.stop()
        with pytest.raises(openai.APIError, match="broke off its answer"):
            for _ in stream:
                pass
    finally:
        relay.stop()
        relay.start()
    assert say(service).choices[0].message.content
