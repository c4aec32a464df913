"""Thousands of requests made from the API's own description: no 5xx, and every answer is one that it describes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.projects import OPERATOR_KEY, GuardedService, Organization

CONFIG = Path(__file__).parent / "schemathesis.toml"

pytestmark = pytest.mark.slow


def test_every_answer_is_one_that_the_description_has(
    guarded_service: GuardedService, organization: Organization, tmp_path: Path
) -> None:
    model = guarded_service.add_tuned_model(organization.project_id, organization.name)
    client = organization.client_of(organization.project_id)
    file_id = client.files.create(file=b"{}\n", purpose="fine-tune").id
    existing = {
        "path.fine_tuning_job_id": model.job_id,
        "path.fine_tuned_model_checkpoint": model.name,
        "path.file_id": file_id,
    }
    parameters = "\n".join(f'"{name}" = "{value}"' for name, value in existing.items())
    config = tmp_path / "schemathesis.toml"
    config.write_text(f"{CONFIG.read_text()}\n[parameters]\n{parameters}\n")
    # every bound of every field once; what differs between the databases, the random requests find on both
    phases = "examples,fuzzing,stateful" + (",coverage" if "sqlite" in guarded_service.database_url else "")
    logged = len(guarded_service.log)
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config)),
            *("run", f"{guarded_service.url}/openapi.json", "--no-color", "--phases", phases),
        ],
        cwd=tmp_path,
        env=os.environ | {"FETTLE_FUZZ_KEY": OPERATOR_KEY, "FETTLE_FUZZ_ORGANIZATION": organization.id},
        capture_output=True,
        text=True,
    )
    report = finished.stdout[-8000:]
    print(report)
    assert finished.returncode == 0, report
    assert "Tested: " in report
    assert "Traceback" not in guarded_service.log[logged:]
