"""Fixtures by concern; see `tests/fixtures/`."""

pytest_plugins = [
    "tests.fixtures.service",
    "tests.fixtures.webhook_receiver",
    "tests.fixtures.stored_services",
    "tests.fixtures.projects",
]
