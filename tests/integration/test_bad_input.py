"""Whatever a client sends, it gets an error of OpenAI's shape that says what is wrong, and leaves nothing behind."""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http_protocol import MAX_HEAD_BYTES
from service.json_body import MAX_BYTES
from tests.fixtures.projects import GuardedService, Organization
from tests.fixtures.service import RunningService, wait_until

ERROR_KEYS = {"message", "type", "param", "code"}
JOBS = "/v1/fine_tuning/jobs"
JSON = {"content-type": "application/json"}
UNKNOWN_FILE = "file-" + "a" * 22


def refusal(answer: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["openai-version"] == "2020-10-01"
    assert int(answer.headers["openai-processing-ms"]) >= 0
    error = answer.json()["error"]
    assert set(error) == ERROR_KEYS
    assert error["message"]
    assert "Traceback" not in answer.text
    return dict(error)


def send_job(service: RunningService, content: bytes, headers: dict[str, str] = JSON) -> httpx.Response:
    return httpx.post(service.url + JOBS, content=content, headers=headers, timeout=60)


def job_with(**fields: Any) -> bytes:
    return json.dumps({"model": "fettle-tiny", "training_file": UNKNOWN_FILE} | fields).encode()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"{", "could not parse"),
        (b'{"model": }', "line 1 column 11"),
        (b'{"model": "a"} {}', "trailing characters"),
        (b"model=fettle-tiny", "could not parse"),
        (b'{"model": "\xff\xfe"}', "unicode"),
        (b'{"model": "\\ud800"}', "hex escape"),
        (b"[" * 10_000 + b"]" * 10_000, "recursion limit"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "recursion limit"),
        (b'{"model": "a", "model": "b"}', "duplicate key"),
        (b'{"metadata": {"a": "1", "a": "2"}}', "duplicate key"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "out of range"),
        (b"[]", "JSON object"),
        (b'"text"', "JSON object"),
        (b"null", "body"),
        ("{}".encode("utf-16"), "could not parse"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(service: RunningService, content: bytes, words: str) -> None:
    assert words in refusal(send_job(service, content))["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "9" * 400])
def test_a_number_that_json_does_not_have_is_refused_by_its_field(service: RunningService, number: str) -> None:
    content = job_with(method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": "NUMBER"}}})
    error = refusal(send_job(service, content.replace(b'"NUMBER"', number.encode())))
    assert error["param"] == "method.supervised.hyperparameters.n_epochs"
    error = refusal(send_job(service, job_with(metadata={"a": "NUMBER"}).replace(b'"NUMBER"', number.encode())))
    assert error["param"] == "metadata.a"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_requests_to_models_are_read_as_strictly(service: RunningService, path: str) -> None:
    for content in (b"[" * 10_000, b'{"model": NaN}', b"", b'{"model": 1e400, "messages": []}'):
        refusal(httpx.post(service.url + path, content=content, headers=JSON))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "a\0b"}, "suffix"),
        ({"model": "fettle\0"}, "model"),
        ({"metadata": {"a": "\0"}}, "metadata.a"),
        ({"metadata": {"a\0": "b"}}, "metadata.a\\u0000"),
        (
            {"integrations": [{"type": "wandb", "wandb": {"project": "p", "tags": ["x", "\0"]}}]},
            "integrations[0].wandb",
        ),
    ],
)
def test_a_nul_is_refused_by_its_field(service: RunningService, fields: dict[str, Any], param: str) -> None:
    assert str(refusal(send_job(service, job_with(**fields)))["param"]).startswith(param)


@pytest.mark.parametrize(
    "content_type", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_json_that_does_not_say_so_is_refused_with_the_header_to_send(
    service: RunningService, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"content-type": content_type}
    error = refusal(send_job(service, job_with(), headers))
    assert "'Content-Type: application/json'" in error["message"]


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_that_says_so_is_read(service: RunningService, content_type: str) -> None:
    assert refusal(send_job(service, job_with(), {"content-type": content_type}))["param"] == "training_file"
    assert refusal(send_job(service, b"\xef\xbb\xbf" + job_with()))["param"] == "training_file"


def test_a_body_over_the_limit_is_refused_by_its_header_and_while_it_arrives(service: RunningService) -> None:
    room = MAX_BYTES - len(job_with(suffix=""))
    assert refusal(send_job(service, job_with(suffix="x" * room)))["param"] == "suffix"
    refusal(send_job(service, job_with(suffix="x" * (room + 1))), 413)

    def chunks() -> Any:
        for _ in range(MAX_BYTES // 65536 + 1):
            yield b" " * 65536

    refusal(httpx.post(service.url + JOBS, content=chunks(), headers=JSON, timeout=60), 413)
    announced = head_of("POST", JOBS, "content-type: application/json", f"content-length: {10**15}")
    assert exchange(service, announced).startswith(b"HTTP/1.1 413 ")


def test_what_takes_no_body_refuses_one(service: RunningService) -> None:
    path = f"{service.url}{JOBS}/ftjob-{'a' * 24}/cancel"
    assert httpx.post(path).status_code == 404
    assert httpx.post(path, json={}).status_code == 404
    assert "takes no body" in refusal(httpx.post(path, json={"reason": "none"}))["message"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=1.5", "limit"),
        ("limit=-1", "limit"),
        ("limit=NaN", "limit"),
        ("limit=" + "9" * 5000, "limit"),
        ("limit=1&limit=2", "limit"),
        ("order=sideways", "order"),
        ("after=a%00", "after"),
        ("a%00=1", "a\0"),
        ("limits=1", "limits"),
        ("limit[]=1", "limit[]"),
        ("metadata[a]=b", "metadata[a]"),
        ("%ff=1", "�"),
    ],
)
def test_a_query_parameter_of_a_wrong_kind_is_refused_by_name(service: RunningService, query: str, param: str) -> None:
    assert refusal(httpx.get(f"{service.url}/v1/files?{query}"))["param"] == param


def test_the_filter_by_metadata_takes_no_nul(service: RunningService) -> None:
    for query in ("metadata[a]=%00", "metadata[%00]=a"):
        refusal(httpx.get(f"{service.url}{JOBS}?{query}"))


def test_azures_version_is_the_only_parameter_that_means_nothing(service: RunningService) -> None:
    assert httpx.get(f"{service.url}/v1/files?api-version=2024-10-21").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/v1/nothing", "/v1/files/", "/v2/files", "/openai", "/openai/", "/openai/v1", "/x/y?z=1"],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
def test_an_unknown_url_is_not_found_with_any_method(guarded_service: GuardedService, method: str, path: str) -> None:
    if method == "BREW":  # not one of the methods that HTTP parsers know
        assert b"400" in exchange(guarded_service, head_of(method, path))[:20]
        return
    for headers in ({}, {"authorization": "Bearer sk-operator-of-the-tests"}):
        error = refusal(httpx.request(method, guarded_service.url + path, headers=headers), 404)
        assert error["message"].startswith("Invalid URL")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/files", "GET, POST"),
        ("HEAD", "/v1/files", "GET, POST"),
        ("OPTIONS", "/v1/models", "GET"),
        ("POST", "/v1/models/x", "DELETE, GET"),
        ("DELETE", JOBS, "GET, POST"),
        ("GET", "/v1/chat/completions", "POST"),
        ("POST", "/health", "GET"),
        ("PATCH", "/docs", "GET"),
        ("PUT", "/openai/files", "GET, POST"),
    ],
)
def test_a_wrong_method_names_the_right_ones(service: RunningService, method: str, path: str, allowed: str) -> None:
    answer = httpx.request(method, service.url + path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    if method != "HEAD":
        refusal(answer, 405)


def test_nobody_is_heard_before_it_is_known_who_asks(guarded_service: GuardedService) -> None:
    url = guarded_service.url
    for headers in ({}, {"authorization": "Bearer sk-wrong"}, {"api-key": "sk-wrong"}, {"authorization": "Basic eA=="}):
        for content in (b"{", b"", b"[" * 10_000, b"x" * (MAX_BYTES + 1)):
            answer = httpx.post(url + JOBS, content=content, headers=headers | JSON)
            assert refusal(answer, 401)["code"] == "invalid_api_key"
        refusal(httpx.post(f"{url}/v1/files", content=b"x", headers=headers), 401)
        refusal(httpx.get(f"{url}/v1/files?limit=x&nonsense=1", headers=headers), 401)
        refusal(httpx.post(f"{url}/v1/chat/completions", content=b"{", headers=headers), 401)
    error = refusal(httpx.get(f"{url}/v1/models", headers={"authorization": "Bearer sk-a-wrong-key-1234"}), 401)
    assert error["message"] == "Incorrect API key provided: sk-***1234."


def test_a_role_is_checked_before_the_fields(organization: Organization, guarded_service: GuardedService) -> None:
    key = organization.key(organization.project_id, "reader")
    refusal(guarded_service.send("POST", "/fine_tuning/jobs", key, json={"nonsense": 1}), 403)


@pytest.mark.parametrize("name", ["a/b", "..", "🦊" * 16, "x" * 10_000, " ", "\u202e", "a\nb"])
def test_a_hostile_suffix_is_refused_or_harmless(service: RunningService, name: str) -> None:
    file_id = service.upload(b"{}\n")
    answer = send_job(service, job_with(training_file=file_id, suffix=name))
    if answer.status_code == 200:
        job = answer.json()
        assert job["user_provided_suffix"] == name
        service.client.fine_tuning.jobs.cancel(job["id"])
    else:
        assert refusal(answer)["param"] == "suffix"


@pytest.mark.parametrize(
    ("metadata", "is_taken"),
    [
        ({f"key{number}": "v" for number in range(16)}, True),
        ({f"key{number}": "v" for number in range(17)}, False),
        ({"k" * 64: "v"}, True),
        ({"k" * 65: "v"}, False),
        ({"": "v"}, False),
        ({"k": "v" * 512}, True),
        ({"k": "v" * 513}, False),
        ({"k": 1}, False),
        ({"k": None}, False),
        ({"k": ["v"]}, False),
        ({"🦊": "🦊" * 512}, True),
        ([], False),
        ("k=v", False),
    ],
)
def test_metadata_within_its_limits_is_kept_and_beyond_them_refused(
    service: RunningService, metadata: Any, is_taken: bool
) -> None:
    answer = send_job(service, job_with(training_file=service.upload(b"{}\n"), metadata=metadata))
    if is_taken:
        assert answer.json()["metadata"] == metadata
        service.client.fine_tuning.jobs.cancel(answer.json()["id"])
    else:
        assert str(refusal(answer)["param"]).startswith("metadata")


IDS = [
    "file-x",
    "ftjob-" + "a" * 24,
    "a" * 10_000,
    "-1",
    "0",
    "null",
    "%00",
    "%2e%2e",
    "%F0%9F%A6%8A",
    "a%2Fb",
    "%FF",
    "'",
]


@pytest.mark.parametrize("text", IDS)
def test_an_id_of_any_other_kind_is_not_found_everywhere(service: RunningService, text: str) -> None:
    for method, path in (
        ("GET", f"/v1/files/{text}"),
        ("DELETE", f"/v1/files/{text}"),
        ("GET", f"/v1/files/{text}/content"),
        ("GET", f"/v1/models/{text}"),
        ("DELETE", f"/v1/models/{text}"),
        ("GET", f"{JOBS}/{text}x"),
        ("POST", f"{JOBS}/{text}x/cancel"),
        ("POST", f"{JOBS}/{text}x/pause"),
        ("POST", f"{JOBS}/{text}x/resume"),
        ("GET", f"{JOBS}/{text}x/events"),
        ("GET", f"{JOBS}/{text}x/checkpoints"),
        ("POST", f"/v1/uploads/{text}/cancel"),
        ("GET", f"/v1/batches/{text}"),
        ("POST", f"/v1/batches/{text}/cancel"),
        ("GET", f"/v1/webhook_endpoints/{text}"),
        ("GET", f"/v1/organization/projects/{text}"),
        ("GET", f"/v1/organization/admin_api_keys/{text}"),
        ("GET", f"/v1/organizations/{text}"),
        ("GET", f"/v1/fine_tuning/checkpoints/{text}/permissions"),
    ):
        refusal(httpx.request(method, service.url + path, timeout=60), 404)


def test_duplicate_form_fields_are_refused_by_name(service: RunningService) -> None:
    for field, files in (
        ("purpose", [("purpose", (None, b"fine-tune")), ("purpose", (None, b"batch")), ("file", ("a", b"{}"))]),
        ("file", [("purpose", (None, b"fine-tune")), ("file", ("a", b"{}")), ("file", ("b", b"{}"))]),
    ):
        answer = httpx.post(f"{service.url}/v1/files", files=files)
        assert refusal(answer)["param"] == field


def test_a_client_that_stops_halfway_leaves_nothing(service: RunningService) -> None:
    def objects() -> set[Path]:
        return {path for path in (service.data_dir / "objects").rglob("*") if path.is_file()}

    objects_before = objects()
    before = {file.id for file in service.client.files.list()}
    jobs_before = {job.id for job in service.client.fine_tuning.jobs.list()}
    form = (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="halfway.jsonl"\r\n\r\n{"messages"'
    )
    for path, kind, body in (
        ("/v1/files", "multipart/form-data; boundary=b", form),
        (JOBS, "application/json", job_with()[:20]),
        ("/v1/chat/completions", "application/json", b'{"model"'),
    ):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(head_of("POST", path, f"content-type: {kind}", "content-length: 100000") + body)
    wait_until(lambda: not objects() - objects_before, 30, "the half file stayed")
    assert {file.id for file in service.client.files.list()} == before
    assert {job.id for job in service.client.fine_tuning.jobs.list()} == jobs_before


@pytest.mark.parametrize(
    "message",
    [
        b"nonsense\r\n\r\n",
        b"GET /v1/models HTTP/9.9\r\nhost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"GET /v1/models\x00 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"GET /v1/\xc3\xa4 HTTP/1.1\r\nhost: x\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_an_error_that_openais_clients_parse(service: RunningService, message: bytes) -> None:
    head, _, body = exchange(service, message).partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert 400 <= status < 500, head
    assert set(json.loads(body)["error"]) == ERROR_KEYS
    assert b"x-request-id: req_" in head


def test_an_endless_head_is_cut_off(service: RunningService) -> None:
    for endless in (b"GET /" + b"a" * 1000, b"GET /v1/models HTTP/1.1\r\nx: " + b"a" * 1000):
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
            connection.sendall(endless)
            sent = 0
            try:
                while sent < 100 * MAX_HEAD_BYTES:
                    connection.sendall(b"a" * 16384)
                    sent += 16384
            except OSError:
                pass
        assert sent < 100 * MAX_HEAD_BYTES
    long = httpx.get(f"{service.url}/v1/models", headers={"x": "a" * (MAX_HEAD_BYTES // 2)})
    assert long.status_code == 200
    assert "…" in refusal(httpx.get(f"{service.url}/{'a' * (MAX_HEAD_BYTES // 2)}"), 404)["message"]


@pytest.mark.parametrize(
    "request_of",
    [
        lambda number: ("GET", f"{JOBS}?limit=1", None),
        lambda number: ("POST", "/v1/organization/projects", {"name": f"p{number}"}),
    ],
    ids=["a list", "a new project each"],
)
async def test_a_thousand_requests_at_once_are_all_answered(
    service: RunningService, request_of: Callable[[int], tuple[str, str, Any]]
) -> None:
    limits = httpx.Limits(max_connections=1000, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=service.url, timeout=300, limits=limits) as client:

        async def send(number: int) -> int:
            method, path, body = request_of(number)
            return (await client.request(method, path, json=body)).status_code

        statuses = await asyncio.gather(*[send(number) for number in range(1000)])
    assert set(statuses) == {200}


def head_of(method: str, path: str, *headers: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: localhost", *headers, "", ""]).encode()


def exchange(service: RunningService, message: bytes) -> bytes:
    """What the server answers to these very bytes, up to the end of its answer's body."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(message)
        answer = b""
        while True:
            head, _, body = answer.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line[:15] == b"content-length:"), None
            )
            if length is not None and b"\r\n\r\n" in answer and len(body) >= length:
                return answer
            received = connection.recv(65536)
            if not received:
                return answer
            answer += received
