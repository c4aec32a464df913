"""The stock clients that must work unchanged, each a script in an environment of its own (`make clients`)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from openai.types.fine_tuning import FineTuningJob

from tests.fixtures.environment import missing
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService, keep_running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system"),
]

SCRIPTS = Path(__file__).parent
ENVIRONMENTS = SCRIPTS.parents[1] / ".clients"
KEY = "sk-of-the-client-tests"
SECONDS = 300  # a client waits for its job; the first also for vLLM


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("clients")
    service = RunningService(
        folder / "data",
        api_keys=KEY,
        serving_wait="PT300S",
        max_running_jobs="2",
        webhook_allow_private="true",
        wandb_mode="offline",
    )
    service.client = service.client.with_options(api_key=KEY)
    yield from keep_running(service)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_bytes(to_jsonl(chat_rows(12)))
    return path


@pytest.fixture(scope="module")
def job(serving: RunningService, rows: Path) -> FineTuningJob:
    created = serving.client.fine_tuning.jobs.create(
        model="fettle-tiny",
        training_file=serving.upload(rows.read_bytes()),
        validation_file=serving.upload(rows.read_bytes()),
        hyperparameters={"n_epochs": 2, "batch_size": 4},
    )
    ended = serving.wait_for_job(created.id, timeout=SECONDS)
    assert ended.status == "succeeded", serving.describe(created.id)
    return ended


def run(serving: RunningService, folder: Path, *command: object, **variables: str) -> None:
    finished = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=os.environ
        | {"OPENAI_BASE_URL": f"{serving.url}/v1", "OPENAI_API_KEY": KEY, "OPENAI_ADMIN_KEY": KEY, "HOME": str(folder)}
        | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert finished.returncode == 0, f"{finished.stdout[-8000:]}\n{serving.log[-3000:]}"
    assert "all is well" in finished.stdout


def python(environment: str) -> Path:
    """The interpreter that has the client; `.venv` is our own environment, with the newest `openai` and with wandb."""
    if environment == ".venv":
        return Path(sys.executable)
    path = ENVIRONMENTS / environment / "bin" / "python"
    return path if path.exists() else missing(f"the client environment {environment} (make clients)")


@pytest.mark.parametrize("environment", [".venv", "openai-2", "openai-1"])
def test_openai_python_reads_every_answer_strictly(
    serving: RunningService, rows: Path, tmp_path: Path, environment: str
) -> None:
    run(serving, tmp_path, python(environment), SCRIPTS / "python" / "whole_api", rows)


@pytest.mark.parametrize("environment", [".venv", "openai-2", "openai-1"])
def test_azures_client_speaks_its_own_dialect(
    serving: RunningService, rows: Path, job: FineTuningJob, tmp_path: Path, environment: str
) -> None:
    script = SCRIPTS / "python" / "azure_dialect.py"
    run(serving, tmp_path, python(environment), script, serving.url, rows, job.fine_tuned_model)


def test_openai_node(serving: RunningService, rows: Path, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None or not (SCRIPTS / "node" / "node_modules").exists():
        missing("node and its packages (make clients)")
    run(serving, tmp_path, node, SCRIPTS / "node" / "whole_api.mjs", rows)


def test_litellm(serving: RunningService, rows: Path, tmp_path: Path) -> None:
    # else it asks the internet what models cost
    local = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    run(serving, tmp_path, python("dspy"), SCRIPTS / "python" / "litellm_jobs.py", rows, **local)


def test_dspy_finetunes(serving: RunningService, rows: Path, tmp_path: Path) -> None:
    local = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "DSPY_CACHEDIR": str(tmp_path)}
    run(serving, tmp_path, python("dspy"), SCRIPTS / "python" / "dspy_finetune.py", rows, **local)


def test_wandb_reads_the_metrics_of_a_job(serving: RunningService, job: FineTuningJob, tmp_path: Path) -> None:
    run(serving, tmp_path, python(".venv"), SCRIPTS / "python" / "wandb_sync.py", job.id, WANDB_MODE="offline")


def test_curl(serving: RunningService, rows: Path, tmp_path: Path) -> None:
    if not (shutil.which("curl") and shutil.which("jq")):
        missing("curl and jq")
    run(serving, tmp_path, "sh", SCRIPTS / "curl" / "whole_api.sh", rows)
