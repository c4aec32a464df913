"""A service that does not trace and logs text loads neither OpenTelemetry nor a JSON formatter; its version is one."""

import subprocess
import sys
from importlib.metadata import version

import service


def test_what_is_off_is_not_imported() -> None:
    script = (
        "import sys; from service.app import create_app; from service.settings import Settings; "
        "import service.operations.server; create_app(Settings()); "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {"opentelemetry", "pythonjsonlogger", "kubernetes"} & set(finished.stdout.split()) == set()


def test_the_version_is_that_of_the_package() -> None:
    assert version("fettle") == service.VERSION
