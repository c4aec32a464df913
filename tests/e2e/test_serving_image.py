"""What the serving image runs: one base model's vLLM by its catalogue entry, offline, with a key, without the service.

One start, half a minute on two cores, for the whole file.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import yaml

from tests.fixtures.hugging_face_hub import HUB_MODEL, fettle_models_fetch, running_hub
from tests.fixtures.service import free_port, wait_until
from tests.fixtures.tiny_model import build_tiny_model, publish_random_adapter
from tuning.catalogue import Catalogue

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system"),
]

START_LIMIT_SECONDS = 300  # on a machine that does other things too
KEY = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, adapters: Path) -> dict[str, str]:
    """The base model comes from a hub that has gone since, as on a cluster with a filled cache."""
    folder = tmp_path_factory.mktemp("cluster")
    build_tiny_model(folder / "model")
    entry = {
        "name": "tiny",
        "source": HUB_MODEL,
        "context_length": 512,
        "stop_tokens": ["<|im_end|>"],
        "tool_parser": "hermes",
        "dtype": "float32",
        "learning_rate": 1e-3,
        "max_lora_rank": 16,
    }
    catalogue = folder / "models.yaml"
    catalogue.write_text(yaml.safe_dump({"models": [entry]}))
    with running_hub() as hub:
        hub.add(HUB_MODEL, folder / "model")
        of_hub = hub.environment(folder / "huggingface")
        fetched = fettle_models_fetch(of_hub, catalogue)
    assert fetched.returncode == 0, fetched.stderr
    (folder / "tmp").mkdir()
    (folder / "adapters" / ".partial-killed").mkdir(parents=True)
    given = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "OMP_WAIT_POLICY")}
    return {
        **given,
        **of_hub,
        "HF_HUB_OFFLINE": "1",
        "HOME": str(folder / "tmp"),
        "TMPDIR": str(folder / "tmp"),
        "FETTLE_MODELS_FILE": str(catalogue),
        "FETTLE_BASE_MODEL": "tiny",
        "FETTLE_ADAPTERS_URI": adapters.as_uri(),
        "FETTLE_ADAPTER_CACHE_DIR": str(folder / "adapters"),
        "VLLM_API_KEY": "secret",
    }


@pytest.fixture(scope="module")
def url(environment: dict[str, str]) -> Iterator[str]:
    port = free_port()
    log = Path(environment["TMPDIR"]) / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "serving_image", "--host", "127.0.0.1", "--port", str(port)]
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: server.poll() is not None or is_live(url), START_LIMIT_SECONDS, "not live", log.read_text)
        assert server.poll() is None, log.read_text()
        yield url
        server.terminate()
        server.wait(60)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def is_live(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


def test_a_probe_needs_no_key_and_everything_else_does(url: str) -> None:
    assert httpx.get(f"{url}/livez").json() == {"status": "ok"}
    for path in ("/health", "/metrics", "/v1/models", "/livez/", "/adapters"):
        assert httpx.get(f"{url}{path}").status_code == 401, path
    assert httpx.post(f"{url}/v1/completions", json={"model": "tiny", "prompt": "a"}).status_code == 401


def test_base_and_adapter_answer_to_the_key(
    url: str, adapters: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Catalogue.load(Path(environment["FETTLE_MODELS_FILE"])).models[0]
    folder = next(Path(environment["HF_HOME"]).glob("hub/models--*/snapshots/*"))
    adapter = publish_random_adapter(adapters, base.model_copy(update={"source": str(folder)}), seed=1)
    said = {}
    for model in ("tiny", adapter):
        question = {"model": model, "prompt": "abc", "max_tokens": 12, "temperature": 0}
        answer = httpx.post(f"{url}/v1/completions", json=question, headers=KEY, timeout=60)
        assert answer.status_code == 200, answer.text
        said[model] = answer.json()["choices"][0]["text"]
    assert said["tiny"] != said[adapter]
    assert (Path(environment["FETTLE_ADAPTER_CACHE_DIR"]) / adapter).is_dir()
    unknown = {"model": "0" * 64, "prompt": "a"}
    assert httpx.post(f"{url}/v1/completions", json=unknown, headers=KEY).status_code == 404


def test_what_a_killed_process_had_begun_to_pull_is_gone(url: str, environment: dict[str, str]) -> None:
    assert not list(Path(environment["FETTLE_ADAPTER_CACHE_DIR"]).glob(".partial-*"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"VLLM_API_KEY": ""}, "set VLLM_API_KEY"),
        ({"FETTLE_BASE_MODEL": "", "FETTLE_ADAPTERS_URI": ""}, "set FETTLE_BASE_MODEL and FETTLE_ADAPTERS_URI"),
        ({"FETTLE_BASE_MODEL": "other"}, "FETTLE_BASE_MODEL is 'other', which"),
        ({"FETTLE_MODELS_FILE": "/nowhere/models.yaml"}, "No such file or directory: '/nowhere/models.yaml'"),
        ({"VLLM_PLUGINS": "theirs"}, "VLLM_PLUGINS must be 'fettle_adapters' or not set"),
        ({"HF_HOME": "/nowhere"}, f"cannot fetch tokenizer_config.json of {HUB_MODEL}"),
    ],
)
def test_an_environment_that_cannot_be_served_is_refused_in_words(
    environment: dict[str, str], changes: dict[str, str], told: str
) -> None:
    command = [sys.executable, "-m", "serving_image"]
    refused = subprocess.run(command, env=environment | changes, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert told in refused.stderr
    assert "Traceback" not in refused.stderr
