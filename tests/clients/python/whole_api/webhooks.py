"""Webhooks: endpoints managed where the SDK can, and an event that the SDK's `unwrap` takes for genuine."""

import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai
from openai.types import FileObject
from strict import client

Delivery = tuple[bytes, dict[str, str]]


def check(file: FileObject) -> None:
    received: queue.Queue[Delivery] = queue.Queue()
    receiver = _receiver(received)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{receiver.server_port}/hook"
    if hasattr(client.webhooks, "create"):
        endpoint_id, secret = _manage(url, received)
    else:
        body = {"name": "older", "url": url, "event_types": ["fine_tuning.job.cancelled"]}
        endpoint = client.post("/webhook_endpoints", body=body, cast_to=dict[str, object])
        endpoint_id, secret = endpoint["id"], endpoint["signing_secret"]

    job = client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file.id)
    client.fine_tuning.jobs.cancel(job.id)
    body, headers = received.get(timeout=30)
    event = client.webhooks.unwrap(body, headers, secret=secret)
    assert (event.type, event.data.id) == ("fine_tuning.job.cancelled", job.id), event
    assert headers["webhook-id"] == event.id, headers
    try:
        client.webhooks.unwrap(body + b" ", headers, secret=secret)
    except openai.InvalidWebhookSignatureError:
        pass
    else:
        raise AssertionError("a forged event was taken for genuine")
    client.delete(f"/webhook_endpoints/{endpoint_id}", cast_to=dict[str, object])
    receiver.shutdown()


def _manage(url: str, received: "queue.Queue[Delivery]") -> tuple[str, str]:
    """The id and the secret of an endpoint that is told of cancelled jobs."""
    created = client.webhooks.create(name="new", url=url, event_types=["fine_tuning.job.failed"])
    updated = client.webhooks.update(created.id, event_types=["fine_tuning.job.cancelled"], name="clients")
    assert (updated.name, updated.event_types) == ("clients", ["fine_tuning.job.cancelled"]), updated
    assert client.webhooks.retrieve(created.id) == updated
    assert updated in list(client.webhooks.list(limit=1))
    assert "fine_tuning.job.succeeded" in client.webhooks.event_types.list().data

    rotated = client.webhooks.rotate_secret(created.id, keep_old_secret_active_for_24_hours=True)
    assert rotated.signing_secret != created.signing_secret
    tried = client.webhooks.test(created.id, event_type="fine_tuning.job.failed")
    assert (tried.success, tried.status_code) == (True, 200), tried
    body, headers = received.get(timeout=30)
    for secret in (created.signing_secret, rotated.signing_secret):
        assert client.webhooks.unwrap(body, headers, secret=secret).type == "fine_tuning.job.failed"

    other = client.webhooks.create(name="other", url=url, event_types=["batch.completed"])
    assert client.webhooks.delete(other.id).deleted
    assert other.id not in [endpoint.id for endpoint in client.webhooks.list()]
    return created.id, rotated.signing_secret


def _receiver(received: "queue.Queue[Delivery]") -> ThreadingHTTPServer:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.put((body, {name.lower(): value for name, value in self.headers.items()}))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
