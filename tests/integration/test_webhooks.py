"""Jobs that end are told to whoever asked, signed, in spite of receivers that fail and of services that are killed."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, StartService, keep_running, new_database, wait_until
from tests.fixtures.webhook_receiver import Answer, StartReceiver, WebhookReceiver

CANCELLED: Literal["fine_tuning.job.cancelled"] = "fine_tuning.job.cancelled"
FAILED: Literal["fine_tuning.job.failed"] = "fine_tuning.job.failed"
SUCCEEDED: Literal["fine_tuning.job.succeeded"] = "fine_tuning.job.succeeded"


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest) -> dict[str, str]:
    return {"database_url": new_database()} if request.param == "postgresql" else {}


@pytest.fixture(scope="module")
def near(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that may send to this machine. Shared, so each test takes paths and endpoints of its own."""
    folder = tmp_path_factory.mktemp("webhooks") / "data"
    yield from keep_running(RunningService(folder, serving="off", webhook_allow_private="true", **settings))


@pytest.fixture(autouse=True)
def no_endpoint_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "near" in request.fixturenames:
        client = request.getfixturevalue("near").client
        for endpoint in client.webhooks.list(limit=100):
            client.webhooks.delete(endpoint.id)


def subscribe(service: RunningService, url: str, *event_types: Any) -> Any:
    return service.client.webhooks.create(name="Test", url=url, event_types=list(event_types) or [CANCELLED])


def cancel_a_job(service: RunningService, client: OpenAI | None = None) -> str:
    client = client or service.client
    file = client.files.create(file=("rows.jsonl", to_jsonl(chat_rows(10))), purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file.id)
    client.fine_tuning.jobs.cancel(job.id)
    return job.id


def deliveries(service: RunningService, endpoint_id: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{service.url}/v1/webhook_endpoints/{endpoint_id}/deliveries", params={"limit": 100})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def wait_for_status(service: RunningService, endpoint_id: str, status: str, timeout: float = 30) -> dict[str, Any]:
    """The endpoint's only delivery, once it has this status."""
    wait_until(
        lambda: [each["status"] for each in deliveries(service, endpoint_id)] == [status],
        timeout,
        f"the delivery did not become {status}",
        tell=lambda: str(deliveries(service, endpoint_id)),
    )
    return deliveries(service, endpoint_id)[0]


def wait_for_attempts(service: RunningService, endpoint_id: str, count: int) -> dict[str, Any]:
    wait_until(
        lambda: len(deliveries(service, endpoint_id)[0]["attempts"]) >= count, 30, f"there were no {count} attempts"
    )
    return deliveries(service, endpoint_id)[0]


# events


def test_a_failed_job_is_told_once_and_the_sdk_accepts_the_signature(
    near: RunningService, receiver: WebhookReceiver
) -> None:
    endpoint = subscribe(near, f"{receiver.url}/failed", FAILED, SUCCEEDED)
    job = near.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=near.upload(b""))
    [received] = receiver.wait_for("/failed")
    event = near.client.webhooks.unwrap(received.body, received.headers, secret=endpoint.signing_secret)
    assert isinstance(event, openai.types.webhooks.FineTuningJobFailedWebhookEvent)
    assert event.data.id == job.id
    assert json.loads(received.body) == {
        "id": received.webhook_id,
        "object": "event",
        "type": FAILED,
        "created_at": event.created_at,
        "data": {"id": job.id},
    }
    assert received.webhook_id.startswith("evt_")
    assert received.headers["content-type"] == "application/json"
    assert received.headers["user-agent"].startswith("Fettle")
    ended = near.client.fine_tuning.jobs.retrieve(job.id)
    assert ended.status == "failed"
    assert ended.finished_at is not None
    assert abs(event.created_at - ended.finished_at) <= 2
    delivery = wait_for_status(near, endpoint.id, "delivered")
    assert (delivery["event_id"], delivery["object_id"]) == (received.webhook_id, job.id)
    [attempt] = delivery["attempts"]
    assert (attempt["status_code"], attempt["response_body"], attempt["error"]) == (200, "thanks", None)
    cancel_a_job(near)  # not subscribed
    assert len(receiver.received) == 1


def test_what_was_changed_on_the_way_is_not_accepted(near: RunningService, receiver: WebhookReceiver) -> None:
    secret = subscribe(near, f"{receiver.url}/x").signing_secret
    cancel_a_job(near)
    [received] = receiver.wait_for("/x")
    unwrap = near.client.webhooks.unwrap
    assert unwrap(received.body, received.headers, secret=secret).type == CANCELLED
    later = received.headers | {"webhook-timestamp": str(int(time.time()) + 5)}
    long_ago = received.headers | {"webhook-timestamp": str(int(time.time()) - 400)}
    other_id = received.headers | {"webhook-id": "evt_0"}
    for body, headers, key in (
        (received.body.replace(b"cancelled", b"succeeded"), received.headers, secret),
        (received.body, later, secret),
        (received.body, long_ago, secret),
        (received.body, other_id, secret),
        (received.body, received.headers, secret[:-8] + "AAAAAAA="),
    ):
        with pytest.raises(InvalidWebhookSignatureError):
            unwrap(body, headers, secret=key)


def test_every_endpoint_of_the_project_is_told_of_the_same_event(
    near: RunningService, receiver: WebhookReceiver
) -> None:
    for path in ("/a", "/b"):
        subscribe(near, receiver.url + path, CANCELLED)
    job_id = cancel_a_job(near)
    with pytest.raises(openai.BadRequestError):
        near.client.fine_tuning.jobs.cancel(job_id)
    [a], [b] = receiver.wait_for("/a"), receiver.wait_for("/b")
    assert (a.webhook_id, a.body) == (b.webhook_id, b.body)


def test_an_event_of_another_project_is_nobodys_business(near: RunningService, receiver: WebhookReceiver) -> None:
    other = other_project(near)
    subscribe(near, f"{receiver.url}/mine")
    other.webhooks.create(name="Theirs", url=f"{receiver.url}/theirs", event_types=[CANCELLED])
    job_id = cancel_a_job(near, other)
    [received] = receiver.wait_for("/theirs")
    assert json.loads(received.body)["data"]["id"] == job_id
    mine = cancel_a_job(near)
    [received] = receiver.wait_for("/mine")
    assert json.loads(received.body)["data"]["id"] == mine


# receivers that fail


def test_a_failed_attempt_is_made_again_with_the_same_id_and_a_new_signature(
    near: RunningService, receiver: WebhookReceiver
) -> None:
    endpoint = subscribe(near, f"{receiver.url}/x")
    receiver.answers["/x"] = [Answer(500, body=b"not today"), Answer(204, body=b"")]
    cancel_a_job(near)
    first, second = receiver.wait_for("/x", 2)
    assert (first.webhook_id, first.body) == (second.webhook_id, second.body)
    assert int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"]) >= 5
    for received in (first, second):
        near.client.webhooks.unwrap(received.body, received.headers, secret=endpoint.signing_secret)
    delivery = wait_for_status(near, endpoint.id, "delivered")
    assert [(a["status_code"], a["response_body"]) for a in delivery["attempts"]] == [(500, "not today"), (204, None)]
    assert delivery["next_attempt_at"] is None


def test_a_receiver_that_is_not_there_yet_gets_it_later(near: RunningService, start_receiver: StartReceiver) -> None:
    gone = start_receiver()
    gone.stop()
    endpoint = subscribe(near, f"{gone.url}/x")
    cancel_a_job(near)
    delivery = wait_for_attempts(near, endpoint.id, 1)
    assert delivery["status"] == "pending"
    assert delivery["next_attempt_at"] >= delivery["attempts"][0]["started_at"] + 5
    [attempt] = delivery["attempts"]
    assert (attempt["status_code"], attempt["response_body"]) == (None, None)
    assert "refused" in attempt["error"]
    start_receiver(gone.port).wait_for("/x")
    assert wait_for_status(near, endpoint.id, "delivered")["event_id"] == delivery["event_id"]


def test_a_service_killed_between_two_attempts_makes_the_second_when_it_is_back(
    settings: dict[str, str], start_service: StartService, start_receiver: StartReceiver, tmp_path: Any
) -> None:
    if settings:
        settings = {"database_url": new_database()}
    own = start_service(tmp_path / "data", serving="off", webhook_allow_private="true", **settings)
    receiver = start_receiver()
    receiver.answers["/x"] = [Answer(503), Answer(200)]
    endpoint = subscribe(own, f"{receiver.url}/x")
    job_id = cancel_a_job(own)
    first = receiver.wait_for("/x")[0]
    wait_for_attempts(own, endpoint.id, 1)
    own.kill()
    own.start()
    first, second = receiver.wait_for("/x", 2)
    assert (first.webhook_id, first.body) == (second.webhook_id, second.body)
    assert json.loads(second.body)["data"]["id"] == job_id
    wait_for_status(own, endpoint.id, "delivered")


@pytest.mark.parametrize(("end", "database"), [("kill", "sqlite"), ("stop", "postgresql")])
def test_a_service_that_ends_in_the_middle_of_an_attempt_repeats_it(
    start_service: StartService, start_receiver: StartReceiver, tmp_path: Any, end: str, database: str
) -> None:
    settings = {"database_url": new_database()} if database == "postgresql" else {}
    own = start_service(tmp_path / "data", serving="off", webhook_allow_private="true", **settings)
    receiver = start_receiver()
    release = threading.Event()
    receiver.answers["/x"] = [Answer(after=release), Answer()]
    endpoint = subscribe(own, f"{receiver.url}/x")
    cancel_a_job(own)
    receiver.wait_for("/x")
    getattr(own, end)()
    release.set()
    own.start()
    first, second = receiver.wait_for("/x", 2)
    assert first.webhook_id == second.webhook_id
    wait_for_status(own, endpoint.id, "delivered")


def test_each_job_is_told_once_however_often_the_service_is_killed(
    start_service: StartService, receiver: WebhookReceiver, tmp_path: Any
) -> None:
    own = start_service(tmp_path / "data", serving="off", webhook_allow_private="true", poll_interval="PT0.1S")
    endpoint = subscribe(own, f"{receiver.url}/x", FAILED)
    jobs = set()
    for kill_after in (0.3, 1.0):
        for _ in range(2):
            jobs.add(own.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=own.upload(b"")).id)
        killed_at = time.monotonic() + kill_after
        wait_until(lambda at=killed_at: time.monotonic() > at, 5, "the clock stands still")  # type: ignore[misc]
        own.restart()
    for job_id in jobs:
        assert own.wait_for_job(job_id).status == "failed"
    wait_until(
        lambda: {each["status"] for each in deliveries(own, endpoint.id)} == {"delivered"}, 30, "some are pending"
    )
    told = [each["object_id"] for each in deliveries(own, endpoint.id)]
    assert sorted(told) == sorted(jobs)
    assert {json.loads(each.body)["data"]["id"] for each in receiver.received} == jobs


def test_two_services_on_one_database_send_each_event_once(
    start_service: StartService, receiver: WebhookReceiver, tmp_path: Any
) -> None:
    shared = {
        "serving": "off",
        "webhook_allow_private": "true",
        "database_url": new_database(),
        "storage_uri": (tmp_path / "objects").as_uri(),
        "poll_interval": "PT0.2S",
    }
    services = [start_service(tmp_path / name, **shared) for name in ("one", "two")]
    paths = [f"/{number}" for number in range(4)]
    for path in paths:
        subscribe(services[0], receiver.url + path)
    jobs = {cancel_a_job(services[number % 2]) for number in range(6)}
    for path in paths:
        receiver.wait_for(path, len(jobs))
    for endpoint in services[0].client.webhooks.list():
        wait_until(
            lambda endpoint=endpoint: (
                {each["status"] for each in deliveries(services[1], endpoint.id)}  # type: ignore[misc]
                == {"delivered"}
            ),
            30,
            "not everything was delivered",
        )
    for path in paths:
        assert sorted(json.loads(each.body)["data"]["id"] for each in receiver.at(path)) == sorted(jobs)


def test_a_redirect_is_a_failure_and_not_followed(near: RunningService, receiver: WebhookReceiver) -> None:
    endpoint = subscribe(near, f"{receiver.url}/x")
    receiver.answers["/x"] = [Answer(307, headers={"location": f"{receiver.url}/elsewhere"})]
    cancel_a_job(near)
    delivery = wait_for_attempts(near, endpoint.id, 1)
    assert delivery["status"] == "pending"
    assert delivery["attempts"][0]["status_code"] == 307
    assert "redirect" in delivery["attempts"][0]["error"]
    assert receiver.at("/elsewhere") == []


def test_gone_ends_a_delivery(near: RunningService, receiver: WebhookReceiver) -> None:
    endpoint = subscribe(near, f"{receiver.url}/x")
    receiver.answers["/x"] = [Answer(410)]
    cancel_a_job(near)
    delivery = wait_for_status(near, endpoint.id, "failed")
    assert len(delivery["attempts"]) == 1
    assert delivery["next_attempt_at"] is None


def test_slow_receivers_hold_up_nobody_else(near: RunningService, receiver: WebhookReceiver) -> None:
    release = threading.Event()
    slow = [subscribe(near, f"{receiver.url}/slow-{number}") for number in range(5)]
    for number in range(5):
        receiver.answers[f"/slow-{number}"] = [Answer(after=release)]
    for _ in range(6):
        cancel_a_job(near)
    for number in range(5):
        receiver.wait_for(f"/slow-{number}", 2)
    fast = subscribe(near, f"{receiver.url}/fast")
    cancel_a_job(near)
    receiver.wait_for("/fast", timeout=10)
    wait_for_status(near, fast.id, "delivered", timeout=5)
    assert len(receiver.at("/slow-0")) == 2  # of seven: the others wait for their turn
    release.set()
    receiver.wait_for("/slow-0", 7, timeout=60)
    for endpoint in slow:
        near.client.webhooks.delete(endpoint.id)


def test_a_deleted_endpoint_gets_nothing_more(near: RunningService, receiver: WebhookReceiver) -> None:
    endpoint = subscribe(near, f"{receiver.url}/deleted")
    kept = subscribe(near, f"{receiver.url}/kept")
    for path in ("/deleted", "/kept"):
        receiver.answers[path] = [Answer(500)]
    cancel_a_job(near)
    wait_for_attempts(near, endpoint.id, 1)
    near.client.webhooks.delete(endpoint.id)
    receiver.wait_for("/kept", 2)  # both were due again at the same time
    wait_for_attempts(near, kept.id, 2)
    assert len(receiver.at("/deleted")) == 1


def test_a_changed_url_is_where_pending_events_go(near: RunningService, receiver: WebhookReceiver) -> None:
    endpoint = subscribe(near, f"{receiver.url}/old")
    receiver.answers["/old"] = [Answer(404)]
    cancel_a_job(near)
    wait_for_attempts(near, endpoint.id, 1)
    near.client.webhooks.update(endpoint.id, url=f"{receiver.url}/new")
    [received] = receiver.wait_for("/new")
    assert [received.webhook_id] == [each.webhook_id for each in receiver.at("/old")]


# secrets


def test_after_a_rotation_both_secrets_are_accepted_if_the_old_one_was_kept(
    near: RunningService, receiver: WebhookReceiver
) -> None:
    endpoint = subscribe(near, f"{receiver.url}/x")
    client = near.client
    rotated = client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != endpoint.signing_secret
    cancel_a_job(near)
    [received] = receiver.wait_for("/x")
    assert len(received.headers["webhook-signature"].split()) == 2
    for secret in (endpoint.signing_secret, rotated.signing_secret):
        assert client.webhooks.unwrap(received.body, received.headers, secret=secret).type == CANCELLED

    again = client.webhooks.rotate_secret(endpoint.id)
    cancel_a_job(near)
    received = receiver.wait_for("/x", 2)[1]
    assert client.webhooks.unwrap(received.body, received.headers, secret=again.signing_secret).type == CANCELLED
    for secret in (endpoint.signing_secret, rotated.signing_secret):
        with pytest.raises(InvalidWebhookSignatureError):
            client.webhooks.unwrap(received.body, received.headers, secret=secret)


def test_kept_secrets_are_not_dropped_in_silence(near: RunningService, receiver: WebhookReceiver) -> None:
    endpoint = subscribe(near, f"{receiver.url}/x")
    for _ in range(5):
        near.client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True)
    with pytest.raises(openai.BadRequestError, match="5 old secrets") as error:
        near.client.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True)
    assert error.value.param == "keep_old_secret_active_for_24_hours"
    cancel_a_job(near)
    [received] = receiver.wait_for("/x")
    near.client.webhooks.unwrap(received.body, received.headers, secret=endpoint.signing_secret)
    near.client.webhooks.rotate_secret(endpoint.id)


def test_a_secret_is_shown_once(near: RunningService, receiver: WebhookReceiver) -> None:
    endpoint = subscribe(near, f"{receiver.url}/x")
    rotated = httpx.post(f"{near.url}/v1/webhook_endpoints/{endpoint.id}/rotate_secret")  # curl sends no body
    assert rotated.status_code == 200
    near.client.webhooks.test(endpoint.id, event_type=CANCELLED)
    answers = [
        httpx.get(f"{near.url}/v1/webhook_endpoints{path}").text
        for path in ("", f"/{endpoint.id}", f"/{endpoint.id}/deliveries")
    ]
    answers.append(near.client.webhooks.update(endpoint.id, name="Other").model_dump_json())
    for secret in (endpoint.signing_secret, rotated.json()["signing_secret"]):
        assert secret.startswith("whsec_")
        assert not [text for text in [*answers, near.log] if secret in text or secret[6:] in text]
    assert rotated.json()["signing_secret_hint"] == f"whsec_***{rotated.json()['signing_secret'][-5:]}"


# management


def test_endpoints_are_made_changed_listed_and_deleted_in_openais_shapes(
    near: RunningService, receiver: WebhookReceiver
) -> None:
    client = OpenAI(base_url=f"{near.url}/v1", api_key="any", max_retries=0, _strict_response_validation=True)
    assert SUCCEEDED in client.webhooks.event_types.list().data
    made = [
        client.webhooks.create(name=f"Nummer {number} 🎺", url=f"{receiver.url}/x", event_types=[SUCCEEDED, FAILED])
        for number in range(5)
    ]
    assert made[0].updated_at == made[0].created_at
    assert [each.id for each in client.webhooks.list(limit=2)] == [each.id for each in made[::-1]]
    page = client.webhooks.list(after=made[2].id)
    assert [each.id for each in page.data] == [made[1].id, made[0].id]
    first = client.webhooks.retrieve(made[0].id)
    assert first.model_dump() == made[0].model_dump(exclude={"signing_secret"})
    assert client.webhooks.update(first.id, name=first.name, url=first.url) == first
    wait_until(lambda: int(time.time()) > first.created_at, 5, "the clock stands still")
    changed = client.webhooks.update(first.id, name="Other", event_types=["batch.completed"])
    assert (changed.name, changed.url, changed.event_types) == ("Other", first.url, ["batch.completed"])
    assert changed.updated_at is not None
    assert changed.updated_at > first.created_at
    assert client.webhooks.retrieve(first.id) == changed
    deleted = client.webhooks.delete(made[2].id)
    assert (deleted.id, deleted.deleted, deleted.object) == (made[2].id, True, "webhook_endpoint.deleted")
    assert [each.id for each in client.webhooks.list(after=made[2].id)] == [made[1].id, made[0].id]
    assert made[2].id not in [each.id for each in client.webhooks.list()]
    for call in calls_on(client, made[2].id):
        with pytest.raises(openai.NotFoundError):
            call()


def test_a_test_event_is_sent_at_once_and_its_answer_told(near: RunningService, receiver: WebhookReceiver) -> None:
    endpoint = subscribe(near, f"{receiver.url}/x")
    receiver.answers["/x"] = [Answer(200), Answer(500), Answer(302, headers={"location": "/elsewhere"})]
    for number, status in enumerate((200, 500, 302)):
        result = near.client.webhooks.test(endpoint.id, event_type="fine_tuning.job.succeeded")
        assert (result.success, result.status_code) == (True, status)
        assert (result.object, result.webhook_endpoint_id) == ("webhook_endpoint.test", endpoint.id)
        received = receiver.at("/x")[number]
        event = near.client.webhooks.unwrap(received.body, received.headers, secret=endpoint.signing_secret)
        assert event.type == result.event_type == SUCCEEDED
    assert len({received.webhook_id for received in receiver.at("/x")}) == 3
    receiver.stop()
    with pytest.raises(openai.BadRequestError, match="refused") as error:
        near.client.webhooks.test(endpoint.id, event_type="batch.failed")
    assert error.value.code == "webhook_endpoint_not_reached"
    log = deliveries(near, endpoint.id)
    assert [(each["is_test"], each["status"]) for each in log] == [
        (True, status) for status in ("failed", "failed", "failed", "delivered")
    ]
    assert near.client.webhooks.retrieve(endpoint.id).updated_at == endpoint.updated_at
    assert receiver.at("/elsewhere") == []


def test_the_log_is_walked_page_by_page(near: RunningService, receiver: WebhookReceiver) -> None:
    endpoint = subscribe(near, f"{receiver.url}/x")
    for _ in range(5):
        near.client.webhooks.test(endpoint.id, event_type=CANCELLED)
    url = f"{near.url}/v1/webhook_endpoints/{endpoint.id}/deliveries"
    seen: list[str] = []
    while True:
        page = httpx.get(url, params={"limit": 2} | ({"after": seen[-1]} if seen else {})).json()
        seen += [each["event_id"] and each["id"] for each in page["data"]]
        if not page["has_more"]:
            break
    assert len(set(seen)) == len(seen) == 5
    assert [each["id"] for each in deliveries(near, endpoint.id)] == seen


JSON = {"content-type": "application/json"}
LONG_NAME, LONG_URL = "n" * 256, "https://example.com/" + "u" * 2028


def test_values_at_their_bounds_are_taken_and_those_beyond_refused(near: RunningService) -> None:
    good: dict[str, Any] = {"name": "n", "url": "https://example.com", "event_types": [FAILED]}

    def answer(**change: object) -> httpx.Response:
        body = {key: value for key, value in (good | change).items() if value != "left out"}
        return httpx.post(f"{near.url}/v1/webhook_endpoints", content=json.dumps(body), headers=JSON)

    types = httpx.get(f"{near.url}/v1/webhook_event_types").json()["data"]
    assert answer(name=LONG_NAME, url=LONG_URL, event_types=types).status_code == 200
    for change, param, words in (
        ({"name": LONG_NAME + "n"}, "name", "256"),
        ({"name": ""}, "name", "at least 1"),
        ({"name": "  "}, "name", "printable"),
        ({"name": "a\0b"}, "name", "U+0000"),
        ({"name": "a\nb"}, "name", "printable"),
        ({"name": 5}, "name", "string"),
        ({"name": None}, "name", "string"),
        ({"name": "left out"}, "name", "Missing"),
        ({"url": LONG_URL + "u"}, "url", "2048"),
        ({"url": "http://169.254.169.254/"}, "url", "public"),
        ({"url": "https://u:p@example.com/"}, "url", "password"),
        ({"url": "left out"}, "url", "Missing"),
        ({"event_types": []}, "event_types", "at least 1"),
        ({"event_types": [FAILED, FAILED]}, "event_types", "once"),
        ({"event_types": ["response.completed"]}, "event_types.0", SUCCEEDED),
        ({"event_types": "fine_tuning.job.failed"}, "event_types", "list"),
        ({"event_types": [FAILED, {}]}, "event_types.1", "'event_types'"),
        ({"secret": "whsec_mine"}, "secret", "Unknown"),
    ):
        refused = answer(**change)
        assert refused.status_code == 400, change
        error = refused.json()["error"]
        assert error["param"] == param, change
        assert words in error["message"], error
    for limit in (-1, 101):
        assert httpx.get(f"{near.url}/v1/webhook_endpoints", params={"limit": limit}).status_code == 400
    assert httpx.get(f"{near.url}/v1/webhook_endpoints", params={"limit": 0}).json()["data"] == []


def test_a_project_has_twenty_endpoints_at_most(near: RunningService) -> None:
    made: list[str] = []
    refused: list[openai.BadRequestError] = []

    def make() -> None:
        for _ in range(8):
            try:
                made.append(subscribe(near, "https://example.com/").id)
            except openai.BadRequestError as error:
                refused.append(error)

    threads = [threading.Thread(target=make) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(made), len(refused)) == (20, 4)
    assert refused[0].code == "too_many_webhook_endpoints"
    near.client.webhooks.delete(made[0])
    subscribe(near, "https://example.com/")


# who may


def other_project(service: RunningService) -> OpenAI:
    made = httpx.post(f"{service.url}/v1/organization/projects", json={"name": "Other"})
    assert made.status_code == 200, made.text
    return OpenAI(
        base_url=f"{service.url}/v1",
        api_key="any",
        max_retries=0,
        default_headers={"OpenAI-Project": made.json()["id"]},
    )


def calls_on(client: OpenAI, endpoint_id: str) -> list[Any]:
    path = f"/webhook_endpoints/{endpoint_id}/deliveries"
    return [
        lambda: client.webhooks.retrieve(endpoint_id),
        lambda: client.webhooks.update(endpoint_id, name="Mine"),
        lambda: client.webhooks.delete(endpoint_id),
        lambda: client.webhooks.rotate_secret(endpoint_id),
        lambda: client.webhooks.test(endpoint_id, event_type="fine_tuning.job.failed"),
        lambda: client.get(path, cast_to=object),
    ]


def test_another_projects_endpoint_does_not_exist(near: RunningService, receiver: WebhookReceiver) -> None:
    endpoint = subscribe(near, f"{receiver.url}/x")
    other = other_project(near)
    unknown = "whe_" + "0" * 24
    for foreign, missing in zip(calls_on(other, endpoint.id), calls_on(other, unknown), strict=True):
        with pytest.raises(openai.NotFoundError) as refused:
            foreign()
        with pytest.raises(openai.NotFoundError) as not_there:
            missing()
        assert refused.value.message.replace(endpoint.id, unknown) == not_there.value.message
    assert other.webhooks.list().data == []
    assert other.webhooks.list(after=endpoint.id).data == []
    assert near.client.webhooks.retrieve(endpoint.id).name == "Test"
    assert receiver.received == []


@pytest.mark.parametrize("endpoint_id", ["whe_1", "file-" + "a" * 22, "whe_" + "é" * 24, "%00", "..%2f..", "x" * 5000])
def test_ids_of_any_other_kind_are_not_found(near: RunningService, endpoint_id: str) -> None:
    answer = httpx.get(f"{near.url}/v1/webhook_endpoints/{endpoint_id}")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


# private addresses


@pytest.mark.parametrize(
    "url",
    [
        *("https://127.0.0.1/", "https://localhost:8443/x", "https://2130706433/", "https://0x7f.1/", "https://[::1]/"),
        *("https://[::ffff:127.0.0.1]/", "https://10.0.0.1/", "https://169.254.169.254/latest", "http://example.com/"),
    ],
)
def test_private_addresses_and_plain_http_are_refused_by_default(service: RunningService, url: str) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        subscribe(service, url)
    assert error.value.param == "url"
    endpoint = subscribe(service, "https://example.com/")
    with pytest.raises(openai.BadRequestError):
        service.client.webhooks.update(endpoint.id, url=url)
    assert service.client.webhooks.retrieve(endpoint.id).url == "https://example.com/"
    service.client.webhooks.delete(endpoint.id)


def test_an_endpoint_of_a_time_when_it_was_allowed_is_not_reached_any_more(
    start_service: StartService, receiver: WebhookReceiver, tmp_path: Any
) -> None:
    open_once = start_service(tmp_path / "data", serving="off", webhook_allow_private="true")
    endpoint = subscribe(open_once, f"http://localhost:{receiver.port}/x")
    assert open_once.client.webhooks.test(endpoint.id, event_type=CANCELLED).status_code == 200
    open_once.stop()
    careful = start_service(tmp_path / "data", serving="off")
    cancel_a_job(careful)
    delivery = wait_for_attempts(careful, endpoint.id, 1)
    while delivery["is_test"]:
        delivery = deliveries(careful, endpoint.id)[0]
    assert "public address" in delivery["attempts"][0]["error"]
    with pytest.raises(openai.BadRequestError, match="public address"):
        careful.client.webhooks.test(endpoint.id, event_type=CANCELLED)
    assert len(receiver.received) == 1
