"""Fixtures by concern; see `tests/fixtures/`."""

pytest_plugins = ["tests.fixtures.service"]
