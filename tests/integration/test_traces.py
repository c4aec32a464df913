"""Spans at a collector: a request and what it led to are one trace, vLLM's part too. One that is away harms nobody."""

import time
from pathlib import Path

import httpx

from tests.fixtures.observed_service import BASE_MODEL, ObservedService
from tests.fixtures.service import StartService, free_port, wait_until
from tests.fixtures.trace_collector import CollectedSpan

SPANS_ARRIVE_SECONDS = 30
TRACE_ID, CALLER_SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def spans_of(observed: ObservedService, trace_id: str, until: str) -> list[CollectedSpan]:
    """All of a trace, once the span of this name is among them: a parent ends, and is sent, last."""
    found: list[CollectedSpan] = []

    def are_there() -> bool:
        found[:] = [span for span in observed.collector.spans if span.trace_id == trace_id]
        return any(span.name == until for span in found)

    names = lambda: str([span.name for span in observed.collector.spans][-50:])  # noqa: E731
    wait_until(are_there, SPANS_ARRIVE_SECONDS, f"no {until} in {trace_id}", names)
    return found


def test_a_completion_is_one_trace_from_the_client_to_vllm(observed: ObservedService) -> None:
    observed.client.chat.completions.create(
        model=BASE_MODEL,
        messages=[{"role": "user", "content": "hi"}],
        extra_headers={"traceparent": f"00-{TRACE_ID}-{CALLER_SPAN_ID}-01"},
    )
    spans = spans_of(observed, TRACE_ID, "POST /v1/chat/completions")
    [request] = [span for span in spans if span.parent_id == CALLER_SPAN_ID]
    assert request.service == "fettle-all"
    assert request.attributes["http.route"] == "/v1/chat/completions"
    assert request.attributes["http.response.status_code"] == 200
    statements = [span for span in spans if "db.query.text" in span.attributes]
    assert statements
    assert all(span.attributes["db.system.name"] == "postgresql" for span in statements)
    calls = [span for span in spans if "server.address" in span.attributes]  # the first one looks whether it is there
    [to_engine] = [span for span in calls if span.attributes["http.request.method"] == "POST"]
    assert to_engine.parent_id == request.span_id
    asked_with = observed.engine.headers[-1]["traceparent"]
    assert asked_with == f"00-{TRACE_ID}-{to_engine.span_id}-01"


def test_a_step_of_a_job_is_a_trace_with_its_statements(observed: ObservedService) -> None:
    file_id = observed.client.files.create(file=("rows.jsonl", b'{"messages": 1}\n' * 10), purpose="fine-tune").id
    job = observed.client.fine_tuning.jobs.create(model=BASE_MODEL, training_file=file_id)
    found: list[CollectedSpan] = []

    def is_there() -> bool:
        steps = observed.collector.named("job validating_files")
        found[:] = [span for span in steps if span.attributes["fettle.job.id"] == job.id]
        return bool(found)

    wait_until(is_there, SPANS_ARRIVE_SECONDS, "no span of the step came")
    assert any(span.parent_id == found[0].span_id for span in observed.collector.spans)


def test_the_loops_that_look_for_work_send_nothing(observed: ObservedService) -> None:
    statements = [span for span in observed.collector.spans if "db.query.text" in span.attributes]
    assert all(span.parent_id for span in statements)


def test_logs_name_the_trace(observed: ObservedService) -> None:
    answer = observed.client.files.with_raw_response.list()
    request_id = answer.headers["x-request-id"]

    def ids() -> list[str]:
        return [record["trace_id"] for record in observed.records if record.get("request_id") == request_id]

    wait_until(lambda: bool(ids()), 10, "no line of the request")
    assert any(span.name == "GET /v1/files" for span in spans_of(observed, ids()[0], "GET /v1/files"))


def test_a_collector_that_is_away_harms_no_request_and_no_stop(start_service: StartService, tmp_path: Path) -> None:
    collector = f"http://127.0.0.1:{free_port()}"
    service = start_service(tmp_path / "data", serving="off", otlp_endpoint=collector)
    for _ in range(20):
        assert httpx.get(f"{service.url}/v1/files").status_code == 200
    started = time.monotonic()
    service.stop()
    assert time.monotonic() - started < 15
    assert service.exit_code == 0
