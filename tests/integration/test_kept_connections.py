"""What clients and load balancers that keep connections see when a server is stopped under them."""

import os
import signal
from http.client import HTTPConnection

from tests.fixtures.service import RunningService, wait_until


def test_requests_on_kept_connections_are_answered_while_the_service_stops(own_service: RunningService) -> None:
    connections = [HTTPConnection("127.0.0.1", own_service.port, timeout=30) for _ in range(5)]
    for each in connections:
        assert get(each) == (200, False)
        each.auto_open = 0  # a connection that was closed is an error

    os.kill(own_service.pid, signal.SIGTERM)
    first, *others = connections
    while get(first) == (200, False):
        pass  # until it has begun to stop
    for each in others:
        each.request("GET", "/health")
    answers = [each.getresponse() for each in others]
    assert [(answer.status, answer.headers["connection"]) for answer in answers] == [(200, "close")] * 4
    wait_until(lambda: own_service.exit_code == 0, 60, "it did not end well", lambda: own_service.log)


def get(connection: HTTPConnection) -> tuple[int, bool]:
    """The status, and whether the server ends the connection with this answer."""
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.will_close
