"""When a delivery is tried again, and when it is over."""

from datetime import timedelta

import pytest

from service.webhooks.deliveries import JITTER, RETRY_DELAYS, after_attempt
from service.webhooks.schemas import DeliveryAttempt


def attempt(status_code: int | None) -> DeliveryAttempt:
    return DeliveryAttempt(started_at=0, duration_ms=1, status_code=status_code, response_body=None, error=None)


@pytest.mark.parametrize("status_code", [200, 201, 204, 299])
def test_any_2xx_ends_it(status_code: int) -> None:
    assert after_attempt(attempt(status_code), 1) == ("delivered", None)


@pytest.mark.parametrize("status_code", [None, 199, 300, 302, 308, 400, 401, 404, 429, 500, 503])
def test_everything_else_is_tried_again_after_growing_delays_for_almost_three_days(status_code: int | None) -> None:
    delays = []
    for number in range(1, 100):
        status, delay = after_attempt(attempt(status_code), number)
        if delay is None:
            assert status == "failed"
            break
        assert status == "pending"
        delays.append(delay)
    for delay, planned in zip(delays, RETRY_DELAYS, strict=True):
        assert planned <= delay <= planned * (1 + JITTER)
    assert delays[0] < timedelta(seconds=6)
    assert timedelta(days=2.5) < sum(delays, timedelta()) < timedelta(days=3.2)


def test_gone_is_the_receivers_word_for_no_more() -> None:
    assert after_attempt(attempt(410), 1) == ("failed", None)
