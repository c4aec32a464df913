"""The committed description of the API is that of the app."""

from pathlib import Path

import yaml

from service.app import create_app
from service.openapi import render
from service.settings import Settings

COMMITTED = Path(__file__).parents[2] / "openapi" / "openapi.yaml"


def test_the_committed_description_is_up_to_date() -> None:
    assert COMMITTED.read_text() == render(create_app(Settings())), "run `make openapi` and commit what it writes"


def test_every_operation_is_described_with_its_errors() -> None:
    paths = yaml.safe_load(COMMITTED.read_text())["paths"]
    operations = [(path, method, operation) for path, methods in paths.items() for method, operation in methods.items()]
    assert len(operations) >= 15
    for path, method, operation in operations:
        assert operation["description"], (path, method)
        assert operation["responses"]["default"]["content"]["application/json"]["example"], (path, method)
        assert "422" not in operation["responses"], (path, method)
