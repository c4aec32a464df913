"""Fixtures by concern, see `tests/fixtures/`; and which tests may run side by side."""

import os
import re

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

if "PYTEST_XDIST_WORKER" in os.environ:
    # Each worker trains and serves with threads for all cores otherwise, and they stand in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = [
    "tests.fixtures.service",
    "tests.fixtures.databases",
    "tests.fixtures.observed_service",
    "tests.fixtures.webhook_receiver",
    "tests.fixtures.stored_services",
    "tests.fixtures.projects",
]

ON_CLUSTER = ("tests/cluster/", "tests/chart/test_chart_install.py")
"""They change the cluster's node, and kill its API server."""
ON_DATABASE = re.compile(r"\[(sqlite|postgresql)\b")
"""Most of them share one service on each database (`tests/fixtures/service.py`)."""


class Groups(LoadScopeScheduling):
    """Tests of one group run one after the other, in one process."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(ON_CLUSTER):
            return "cluster"
        database = ON_DATABASE.search(nodeid)
        return database[1] if database and nodeid.startswith("tests/integration/") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Groups:
    return Groups(config, log)
