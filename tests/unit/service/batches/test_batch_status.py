from itertools import pairwise

import pytest

from service.batches.status import TRANSITIONS, BatchStatus, checked_transition


def test_what_a_batch_goes_through_is_allowed() -> None:
    for path in (
        ("validating", "in_progress", "finalizing", "completed"),
        ("validating", "in_progress", "finalizing", "expired"),
        ("validating", "failed"),
        ("validating", "cancelling", "cancelled"),
        ("in_progress", "cancelling", "cancelled"),
    ):
        for current, new in pairwise(map(BatchStatus, path)):
            assert checked_transition(current, new) is new


def test_nothing_leads_out_of_an_end() -> None:
    ends = {status for status in BatchStatus if status.is_final}
    assert ends == {BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
    for end in ends:
        for status in BatchStatus:
            with pytest.raises(AssertionError):
                checked_transition(end, status)


def test_every_status_has_its_row() -> None:
    assert set(TRANSITIONS) == set(BatchStatus)
