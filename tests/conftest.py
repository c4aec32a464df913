"""Fixtures by concern, see `tests/fixtures/`; and which tests may run at the same time."""

from pathlib import Path

import pytest

pytest_plugins = [
    "tests.fixtures.service",
    "tests.fixtures.observed_service",
    "tests.fixtures.webhook_receiver",
    "tests.fixtures.stored_services",
    "tests.fixtures.projects",
]

SHARED_SERVICES = ("service", "stored_service")
"""Fixtures that start one service for many files, on each database."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group_of(item)))


def _group_of(item: pytest.Item) -> str:
    """Tests of one group run one after the other, in one worker."""
    path = Path(item.location[0])
    if "cluster" in path.parts or path.stem == "test_chart_install":
        return "cluster"  # they change its node, and kill its API server
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    shared = [f"{name} on {parameters[name]}" for name in SHARED_SERVICES if isinstance(parameters.get(name), str)]
    return shared[0] if shared else str(path)
