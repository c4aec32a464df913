"""Each due delivery goes to one service, and an endpoint takes few of them at once."""

import asyncio
import time
from collections import Counter

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from service.database.claims import locked_row
from service.database.engine import Sessions
from service.database.tables import WebhookDeliveryRow, WebhookEndpointRow
from service.ids import new_job_id, new_webhook_endpoint_id
from service.projects.repository import DEFAULT_PROJECT_ID
from service.webhooks.deliveries import record_event
from service.webhooks.repository import (
    MAX_AT_ONCE_PER_ENDPOINT,
    cancel_deliveries,
    claim_due_deliveries,
)

CANCELLED = "fine_tuning.job.cancelled"


async def add_endpoints(sessions: Sessions, count: int) -> list[str]:
    rows = [
        WebhookEndpointRow(
            id=new_webhook_endpoint_id(),
            project_id=DEFAULT_PROJECT_ID,
            created_at=time.time(),
            updated_at=time.time(),
            name="Test",
            url="https://example.com/",
            event_types=[CANCELLED],
            secret="whsec_",
        )
        for _ in range(count)
    ]
    async with sessions.begin() as session:
        session.add_all(rows)
    return [row.id for row in rows]


async def add_events(sessions: Sessions, count: int) -> None:
    for _ in range(count):
        async with sessions.begin() as session:
            await record_event(session, DEFAULT_PROJECT_ID, CANCELLED, new_job_id())


async def test_a_due_delivery_goes_to_one_of_many_services(sessions: Sessions) -> None:
    endpoints = await add_endpoints(sessions, 10)
    await add_events(sessions, 2)
    claims = await asyncio.gather(*[claim_due_deliveries(sessions, 7) for _ in range(6)])
    claimed = [delivery.id for claim in claims for delivery, _ in claim]
    assert len(claimed) == len(set(claimed))
    claimed += [delivery.id for delivery, _ in await claim_due_deliveries(sessions, 100)]
    assert len(set(claimed)) == len(claimed) == 2 * len(endpoints)


async def test_an_endpoint_takes_few_at_once_and_the_oldest_first(sessions: Sessions) -> None:
    endpoints = await add_endpoints(sessions, 3)
    await add_events(sessions, 5)
    first = await claim_due_deliveries(sessions, 100)
    assert Counter(endpoint.id for _, endpoint in first) == dict.fromkeys(endpoints, MAX_AT_ONCE_PER_ENDPOINT)
    assert await claim_due_deliveries(sessions, 100) == []
    async with locked_row(sessions, first[0][0]) as (_, row):
        assert row is not None
        row.status, row.due_at = "delivered", None
    [(next_one, endpoint)] = await claim_due_deliveries(sessions, 100)
    assert endpoint.id == first[0][1].id
    assert next_one.seq > max(delivery.seq for delivery, there in first if there.id == endpoint.id)


async def test_a_lock_that_ran_out_is_taken_over_and_its_old_owner_changes_nothing(sessions: Sessions) -> None:
    await add_endpoints(sessions, 1)
    await add_events(sessions, 1)
    [(old, _)] = await claim_due_deliveries(sessions, 10)
    async with sessions.begin() as session:
        await session.execute(update(WebhookDeliveryRow).values(lock_expires_at=0))
    [(new, _)] = await claim_due_deliveries(sessions, 10)
    assert (new.id, new.event_id) == (old.id, old.event_id)
    async with locked_row(sessions, old) as (_, row):
        assert row is None
    async with locked_row(sessions, new) as (_, row):
        assert row is not None


async def test_what_is_cancelled_under_way_stays_cancelled(sessions: Sessions) -> None:
    [endpoint_id] = await add_endpoints(sessions, 1)
    await add_events(sessions, 3)
    under_way = await claim_due_deliveries(sessions, 10)
    async with sessions.begin() as session:
        await cancel_deliveries(session, endpoint_id)
    for delivery, _ in under_way:
        async with locked_row(sessions, delivery) as (_, row):
            assert row is None
    assert await claim_due_deliveries(sessions, 10) == []


async def test_the_same_event_is_never_written_twice(sessions: Sessions) -> None:
    await add_endpoints(sessions, 2)
    job_id = new_job_id()
    async with sessions.begin() as session:
        await record_event(session, DEFAULT_PROJECT_ID, CANCELLED, job_id)
    with pytest.raises(IntegrityError):
        async with sessions.begin() as session:
            await record_event(session, DEFAULT_PROJECT_ID, CANCELLED, job_id)
    assert len(await claim_due_deliveries(sessions, 10)) == 2
