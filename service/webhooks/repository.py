"""All SQL of webhook endpoints and deliveries."""

import time
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, and_, case, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.database.claims import claim_due, is_free
from service.database.engine import Sessions
from service.database.tables import ProjectRow, WebhookDeliveryRow, WebhookEndpointRow
from service.pagination import paginate

LOCK_TIME = timedelta(seconds=40)
"""Longer than any attempt: a lock that ran out belongs to a service that died, and the attempt is repeated."""
MAX_AT_ONCE_PER_ENDPOINT = 2
"""So that one that is slow, with a thousand events on their way to it, leaves room for the others."""


async def count_endpoints(session: AsyncSession, project_id: str) -> int:
    """The project is locked until this transaction ends: nobody else makes one meanwhile."""
    await session.execute(select(ProjectRow.seq).where(ProjectRow.id == project_id).with_for_update())
    count = select(func.count()).select_from(WebhookEndpointRow)
    return await session.scalar(count.where(_is_of(project_id))) or 0


async def get_endpoint(
    session: AsyncSession, project_id: str, endpoint_id: str, *, for_update: bool = False
) -> WebhookEndpointRow | None:
    """`for_update`: nobody else changes it until this transaction ends."""
    statement = select(WebhookEndpointRow).where(WebhookEndpointRow.id == endpoint_id, _is_of(project_id))
    row: WebhookEndpointRow | None = await session.scalar(statement.with_for_update() if for_update else statement)
    return row


async def list_endpoints(
    session: AsyncSession, project_id: str, *, after: str | None, limit: int
) -> tuple[list[WebhookEndpointRow], bool]:
    endpoints = select(WebhookEndpointRow).where(WebhookEndpointRow.deleted_at.is_(None))
    scope = WebhookEndpointRow.project_id == project_id
    return await paginate(session, endpoints, WebhookEndpointRow, scope, after=after, limit=limit)


async def all_endpoints(session: AsyncSession, project_id: str) -> Sequence[WebhookEndpointRow]:
    return list(await session.scalars(select(WebhookEndpointRow).where(_is_of(project_id))))


async def list_deliveries(
    session: AsyncSession, endpoint_id: str, *, after: str | None, limit: int
) -> tuple[list[WebhookDeliveryRow], bool]:
    scope = WebhookDeliveryRow.endpoint_id == endpoint_id
    return await paginate(session, select(WebhookDeliveryRow), WebhookDeliveryRow, scope, after=after, limit=limit)


async def cancel_deliveries(session: AsyncSession, endpoint_id: str) -> None:
    """Those that are pending, also the ones under way: whoever sends them finds that the lock is gone."""
    await session.execute(
        update(WebhookDeliveryRow)
        .where(WebhookDeliveryRow.endpoint_id == endpoint_id, WebhookDeliveryRow.status == "pending")
        .values(status="cancelled", due_at=None, lock_token=None, lock_expires_at=None)
    )


async def claim_due_deliveries(sessions: Sessions, limit: int) -> list[tuple[WebhookDeliveryRow, WebhookEndpointRow]]:
    """Locks up to `limit` due deliveries for this caller, few of each endpoint, and returns them with it."""
    place = func.row_number().over(
        partition_by=WebhookDeliveryRow.endpoint_id,
        # those under way count too, and come first
        order_by=(case((is_free(WebhookDeliveryRow), 1), else_=0), WebhookDeliveryRow.due_at, WebhookDeliveryRow.seq),
    )
    due = WebhookDeliveryRow.due_at <= time.time()
    queue = select(WebhookDeliveryRow.seq, place.label("place")).where(due).subquery()
    is_its_turn = WebhookDeliveryRow.seq.in_(select(queue.c.seq).where(queue.c.place <= MAX_AT_ONCE_PER_ENDPOINT))
    async with sessions.begin() as session:
        rows = await claim_due(session, WebhookDeliveryRow, limit, LOCK_TIME, is_its_turn)
        if not rows:
            return []
        endpoints = select(WebhookEndpointRow).where(WebhookEndpointRow.id.in_({row.endpoint_id for row in rows}))
        by_id = {endpoint.id: endpoint for endpoint in await session.scalars(endpoints)}
    return [(row, by_id[row.endpoint_id]) for row in rows]


def _is_of(project_id: str) -> ColumnElement[bool]:
    return and_(WebhookEndpointRow.project_id == project_id, WebhookEndpointRow.deleted_at.is_(None))
