"""What Prometheus finds on the ops port after requests, jobs and completions; never a label that a client invented."""

import re
from pathlib import Path

import httpx
import openai
import pytest

from tests.fixtures.observed_service import BASE_MODEL, ObservedService
from tests.fixtures.service import wait_until
from tests.fixtures.stub_engine import FIRST_TOKEN_SECONDS

PROJECT = Path(__file__).resolve().parents[2]


def test_requests_are_counted_by_route_and_status(observed: ObservedService) -> None:
    name = 'fettle_http_requests_total{method="GET",route="/v1/files/{file_id}",status="404"}'
    before = observed.samples().get(name, 0)
    for file_id in ("file-one", "file-two"):
        with pytest.raises(openai.NotFoundError):
            observed.client.files.retrieve(file_id)
    assert observed.samples()[name] == before + 2
    assert observed.samples()['fettle_http_request_seconds_count{method="GET",route="/v1/files/{file_id}"}'] >= 2


def test_paths_and_methods_that_clients_invent_become_one_label(observed: ObservedService) -> None:
    for path in ("/v1/nothing-here", "/wp-login.php", "/v1/files/x/y/z"):
        httpx.get(f"{observed.service.url}{path}")
    httpx.request("BREW", f"{observed.service.url}/v1/coffee")
    names = "\n".join(observed.samples())
    for invented in ("nothing-here", "wp-login", "BREW", "coffee"):
        assert invented not in names
    assert 'fettle_http_requests_total{method="GET",route="other",status="404"}' in names


def test_errors_are_counted_by_the_code_that_clients_see(observed: ObservedService) -> None:
    name = 'fettle_http_errors_total{code="invalid_api_key"}'
    before = observed.samples().get(name, 0)
    assert httpx.get(f"{observed.service.url}/v1/files", headers={"authorization": "Bearer x"}).status_code == 401
    assert observed.samples()[name] == before + 1


def test_completions_are_timed_to_the_first_byte_and_to_the_last(observed: ObservedService) -> None:
    labels = f'base_model="{BASE_MODEL}"'
    messages = [{"role": "user", "content": "hi"}]
    stream = observed.client.chat.completions.create(model=BASE_MODEL, messages=messages, stream=True)  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == "hello"

    def counted() -> bool:
        return f'fettle_gateway_request_seconds_count{{{labels},status="200"}}' in observed.samples()

    wait_until(counted, 10, "the completion was not counted")
    samples = observed.samples()
    first = samples[f"fettle_gateway_first_byte_seconds_sum{{{labels}}}"]
    count = samples[f"fettle_gateway_first_byte_seconds_count{{{labels}}}"]
    assert first >= FIRST_TOKEN_SECONDS * min(count, 1)


def test_a_job_is_counted_by_how_it_ended_and_by_its_status(observed: ObservedService) -> None:
    ended = 'fettle_jobs_ended_total{code="invalid_training_file",status="failed"}'
    before = observed.samples()
    file_id = observed.client.files.create(file=("rows.jsonl", b'{"messages": 1}\n' * 10), purpose="fine-tune").id
    job = observed.client.fine_tuning.jobs.create(model=BASE_MODEL, training_file=file_id)
    assert job.status == "validating_files"
    wait_until(
        lambda: observed.samples().get(ended, 0) == before.get(ended, 0) + 1,
        60,
        "it was not counted",
        lambda: observed.service.log[-3000:],
    )
    failed = 'fettle_jobs{status="failed"}'
    wait_until(lambda: observed.samples()[failed] == before[failed] + 1, 20, "the status was not counted")
    samples = observed.samples()
    assert samples['fettle_step_seconds_count{status="validating_files",work="job"}'] >= 1
    assert samples['fettle_due_lateness_seconds{work="jobs"}'] >= 0


def test_the_process_tells_of_itself(observed: ObservedService) -> None:
    samples = observed.samples()
    assert samples['fettle_build_info{role="all",version="0.1.0"}'] == 1
    assert samples['fettle_ready{part="database"}'] == samples['fettle_ready{part="storage"}'] == 1
    assert 0 <= samples['fettle_database_connections{state="in_use"}'] <= 14
    assert samples['fettle_database_connections{state="at_most"}'] == 14
    assert samples["process_resident_memory_bytes"] > 0


def test_the_api_port_shows_no_metrics(observed: ObservedService) -> None:
    assert httpx.get(f"{observed.service.url}/metrics").status_code == 404
    assert httpx.get(f"{observed.service.url}/readyz").status_code == 200


def test_every_metric_is_explained(observed: ObservedService) -> None:
    page = (PROJECT / "docs" / "observability.md").read_text(encoding="utf-8")
    text = httpx.get(f"{observed.ops_url}/metrics").text
    families = set(re.findall(r"^# TYPE (fettle_\w+) ", text, re.MULTILINE))
    assert {name for name in families if not name.endswith("_created") and f"`{name}`" not in page} == set()
