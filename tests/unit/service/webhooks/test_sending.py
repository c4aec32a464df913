"""A request goes to the address that was checked, under the name that was asked for."""

import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from service.database.tables import WebhookDeliveryRow, WebhookEndpointRow
from service.webhooks.addresses import Addresses
from service.webhooks.sending import MAX_BODY_BYTES, Sender
from service.webhooks.signatures import new_secret
from tests.fixtures.webhook_receiver import Answer, StartReceiver, WebhookReceiver

DELIVERY = WebhookDeliveryRow(
    id="whd_1", event_id="evt_1", event_type="batch.completed", object_id="batch_1", created_at=1795263543.5
)


def endpoint(url: str, *old_secrets: dict[str, Any]) -> WebhookEndpointRow:
    return WebhookEndpointRow(id="whe_1", url=url, secret=new_secret(), old_secrets=list(old_secrets))


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender(Addresses(allow_private=True))
    yield sender
    await sender.close()


@pytest.fixture
async def careful() -> AsyncIterator[Sender]:
    sender = Sender(Addresses(allow_private=False))
    yield sender
    await sender.close()


def names_lead_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """What a name server would say, one answer a question; returns the names that were asked for."""
    asked: list[str] = []
    rest = list(answers)

    def look_up(host: bytes, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        asked.append(host.decode())
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in rest.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


async def test_the_sdk_accepts_every_active_secret_and_no_other(sender: Sender, receiver: WebhookReceiver) -> None:
    active, over = new_secret(), new_secret()
    now = time.time()
    old = {"secret": active, "expires_at": now + 60}, {"secret": over, "expires_at": now - 60}
    there = endpoint(f"{receiver.url}/x", *old)
    assert (await sender.send(DELIVERY, there)).status_code == 200
    [received] = receiver.received
    client = OpenAI(api_key="any")
    for secret in (there.secret, active):
        event = client.webhooks.unwrap(received.body, received.headers, secret=secret)
        assert (event.id, event.type, event.data.id) == ("evt_1", "batch.completed", "batch_1")  # type: ignore[union-attr]
        assert (event.object, event.created_at) == ("event", 1795263543)
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(received.body, received.headers, secret=over)


async def test_a_name_is_looked_up_once_and_its_answer_is_where_the_request_goes(
    sender: Sender, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = names_lead_to(monkeypatch, ["127.0.0.1"])
    attempt = await sender.send(DELIVERY, endpoint(f"http://hooks.example.com:{receiver.port}/x"))
    assert attempt.status_code == 200
    assert asked == ["hooks.example.com"]
    assert receiver.received[0].headers["host"] == f"hooks.example.com:{receiver.port}"


async def test_a_name_that_turns_to_a_private_address_reaches_nobody(
    careful: Sender, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"https://hooks.example.com:{receiver.port}/x"
    careful.addresses.check_url(url)
    for answer in (["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["::ffff:127.0.0.1"]):
        names_lead_to(monkeypatch, answer)
        attempt = await careful.send(DELIVERY, endpoint(url))
        assert attempt.status_code is None
        assert attempt.error is not None
        assert "public address" in attempt.error
        assert "127.0.0.1" not in attempt.error  # what a name of the inside leads to is nobody's business
    assert receiver.received == []


async def test_the_next_address_of_a_name_is_tried(
    sender: Sender, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names_lead_to(monkeypatch, ["127.0.0.2", "127.0.0.1"])  # the receiver listens on the second one only
    attempt = await sender.send(DELIVERY, endpoint(f"http://hooks.example.com:{receiver.port}/x"))
    assert attempt.status_code == 200


async def test_a_proxy_of_the_environment_is_not_asked(
    receiver: WebhookReceiver, start_receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start_receiver()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    sender = Sender(Addresses(allow_private=True))
    assert (await sender.send(DELIVERY, endpoint(f"{receiver.url}/x"))).status_code == 200
    await sender.close()
    assert proxy.received == []


async def test_nothing_of_one_answer_is_sent_with_the_next_request(sender: Sender, receiver: WebhookReceiver) -> None:
    receiver.answers["/x"] = [Answer(headers={"set-cookie": "who=me; Path=/"})]
    for _ in range(2):
        await sender.send(DELIVERY, endpoint(f"{receiver.url}/x"))
    assert [received.headers.get("cookie") for received in receiver.received] == [None, None]


async def test_a_huge_answer_is_read_to_its_beginning(sender: Sender, receiver: WebhookReceiver) -> None:
    receiver.answers["/x"] = [Answer(body=b"\0\xff" + b"x" * 50_000_000)]
    attempt = await sender.send(DELIVERY, endpoint(f"{receiver.url}/x"))
    assert attempt.status_code == 200
    assert attempt.response_body is not None
    assert attempt.response_body == "��" + "x" * (MAX_BODY_BYTES - 2)
    assert attempt.duration_ms < 5000


async def test_an_answer_that_stops_halfway_counts_by_its_status(sender: Sender, receiver: WebhookReceiver) -> None:
    receiver.answers["/x"] = [Answer(headers={"content-length": "1000"}, body=b"only this")]
    attempt = await sender.send(DELIVERY, endpoint(f"{receiver.url}/x"))
    assert (attempt.status_code, attempt.response_body) == (200, "only this")


async def test_failures_are_told_in_words(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    refused = await sender.send(DELIVERY, endpoint(f"http://127.0.0.1:{port}/"))
    unknown = await sender.send(DELIVERY, endpoint("http://no-such-host.invalid/"))
    assert (refused.status_code, unknown.status_code) == (None, None)
    assert refused.error == "The connection was refused, or could not be made."
    assert unknown.error == "Its host name is not known."


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For hooks.example.com, signed by itself."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem"), "-days", "2"),
            *("-subj", "/CN=hooks.example.com", "-addext", "subjectAltName=DNS:hooks.example.com"),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path / "certificate.pem"


async def test_certificates_are_checked_against_the_name(
    certificate: Path, start_receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    asked_for: list[str] = []
    context.sni_callback = lambda _, name, __: asked_for.append(name)
    receiver = start_receiver(tls=context)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    sender = Sender(Addresses(allow_private=True))
    names_lead_to(monkeypatch, ["127.0.0.1"], ["127.0.0.1"])
    right = await sender.send(DELIVERY, endpoint(f"https://hooks.example.com:{receiver.port}/x"))
    assert right.status_code == 200, right.error
    wrong = await sender.send(DELIVERY, endpoint(f"https://other.example.com:{receiver.port}/x"))
    await sender.close()
    assert wrong.status_code is None
    assert wrong.error is not None
    assert "certificate" in wrong.error
    assert asked_for == ["hooks.example.com", "other.example.com"]
    assert len(receiver.received) == 1
