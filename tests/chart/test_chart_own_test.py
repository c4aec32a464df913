"""What `helm test` runs in its pod, run here against the real service."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.chart import CHART
from tests.fixtures.service import RunningService, free_port

KEY = "sk-operator"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningService, int]]:
    port = free_port()
    service = RunningService(
        tmp_path_factory.mktemp("service"), ops_port=str(port), api_keys=f"{KEY},other", serving="off"
    )
    service.client.api_key = KEY
    yield service.start(), port
    service.stop()


def run_test(service: tuple[RunningService, int], **changed: str) -> subprocess.CompletedProcess[str]:
    running, port = service
    environment = {
        "API_URL": running.url,
        "OPS_HOST": "127.0.0.1",
        "OPS_PORT": str(port),
        "MODELS": "fettle-tiny",
        "API_KEYS": f"{KEY},other",
    }
    script = Path(CHART, "files", "test.py").read_text()
    return subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], **environment, **changed},
        capture_output=True,
        text=True,
    )


def test_helm_test_passes_where_all_is_well(service: tuple[RunningService, int]) -> None:
    result = run_test(service)
    assert result.returncode == 0, result.stderr
    assert "/readyz 200" in result.stdout and "fettle-tiny" in result.stdout


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"API_KEYS": "sk-wrong"}, "401"),
        ({"MODELS": "fettle-tiny gone"}, "the API does not know gone"),
        ({"OPS_PORT": "1"}, "refused"),
    ],
)
def test_helm_test_fails_where_something_is_not(
    service: tuple[RunningService, int], changed: dict[str, str], said: str
) -> None:
    result = run_test(service, **changed)
    assert result.returncode != 0
    assert said in result.stderr
