"""The commands of docs/keys.md, run from the first to the last as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.fixtures.service import RunningService

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"


def test_every_command_of_the_page_works_on_a_new_server(own_service: RunningService) -> None:
    script = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
    script = script.replace("http://127.0.0.1:8000", own_service.url).replace("curl -s ", "curl -sS --fail-with-body ")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "fettle-tiny" in ran.stdout
    assert "revoked\narchived\n" in ran.stdout
    assert '"value":"sk-fettle-' in ran.stdout
    assert '"data":[]' in ran.stdout
