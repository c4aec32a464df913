"""`docs/webhooks.md` does what it says."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.service import StartService
from tests.fixtures.webhook_receiver import WebhookReceiver

PAGE = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"


def test_every_snippet_of_the_page_runs(
    start_service: StartService, receiver: WebhookReceiver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service = start_service(tmp_path / "data", serving="off", webhook_allow_private="true")
    text = PAGE.read_text().replace("http://127.0.0.1:8000", service.url)
    snippets = re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    for language, code in snippets:
        if language == "python":
            exec(code, names)
        else:
            answer = subprocess.run(code, shell=True, capture_output=True, text=True, check=True).stdout
            assert "signing_secret" in answer
    assert [language for language, _ in snippets] == ["python", "sh", "python"]

    endpoint = service.client.webhooks.update(names["endpoint"].id, url=f"{receiver.url}/x")
    job = service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=service.upload(b""))
    [received] = receiver.wait_for("/x")
    names["receive"](received.headers, received.body)
    assert "fine_tuning.job.failed None" in capsys.readouterr().out
    log = service.client.get(f"/webhook_endpoints/{endpoint.id}/deliveries", cast_to=object)
    assert job.id in str(log)
