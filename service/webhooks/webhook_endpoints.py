"""The rules of webhook endpoints: what may be made, how their secrets change, and how they are tried."""

import time
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.engine import Sessions
from service.database.tables import WebhookDeliveryRow, WebhookEndpointRow
from service.errors import InvalidRequest, NotFound
from service.ids import (
    WEBHOOK_ENDPOINT_ID_PATTERN,
    new_webhook_delivery_id,
    new_webhook_endpoint_id,
    new_webhook_event_id,
)
from service.webhooks import repository
from service.webhooks.addresses import Addresses, AddressRefused
from service.webhooks.schemas import CreateWebhookEndpoint, EventType, UpdateWebhookEndpoint
from service.webhooks.sending import Sender
from service.webhooks.signatures import new_secret

MAX_ENDPOINTS = 20
"""In a project."""
OLD_SECRET_TIME = timedelta(hours=24)
MAX_OLD_SECRETS = 5
"""Each is one more signature in every request."""

_SAMPLE_IDS = {"fine_tuning": f"ftjob-{'0' * 24}", "batch": f"batch_{'0' * 32}"}


async def create_endpoint(
    session: AsyncSession, addresses: Addresses, project_id: str, asked: CreateWebhookEndpoint
) -> WebhookEndpointRow:
    _check(addresses, asked)
    if await repository.count_endpoints(session, project_id) >= MAX_ENDPOINTS:
        raise InvalidRequest(
            f"This project has {MAX_ENDPOINTS} webhook endpoints, which is the most; delete one first.",
            code="too_many_webhook_endpoints",
        )
    now = time.time()
    row = WebhookEndpointRow(
        id=new_webhook_endpoint_id(),
        project_id=project_id,
        created_at=now,
        updated_at=now,
        name=asked.name,
        url=asked.url,
        event_types=list(asked.event_types),
        secret=new_secret(),
        old_secrets=[],
    )
    session.add(row)
    return row


async def get_endpoint(
    session: AsyncSession, project_id: str, endpoint_id: str, *, for_update: bool = False
) -> WebhookEndpointRow:
    row = None
    if WEBHOOK_ENDPOINT_ID_PATTERN.fullmatch(endpoint_id):
        row = await repository.get_endpoint(session, project_id, endpoint_id, for_update=for_update)
    if row is None:
        raise NotFound(f"No such webhook endpoint: {endpoint_id}", param="webhook_endpoint_id")
    return row


async def update_endpoint(
    session: AsyncSession, addresses: Addresses, project_id: str, endpoint_id: str, asked: UpdateWebhookEndpoint
) -> WebhookEndpointRow:
    """What is pending goes to the new URL."""
    _check(addresses, asked)
    row = await get_endpoint(session, project_id, endpoint_id, for_update=True)
    before = (row.name, row.url, row.event_types)
    row.name = row.name if asked.name is None else asked.name
    row.url = row.url if asked.url is None else asked.url
    row.event_types = row.event_types if asked.event_types is None else list(asked.event_types)
    if (row.name, row.url, row.event_types) != before:
        row.updated_at = time.time()
    return row


async def rotate_secret(
    session: AsyncSession, project_id: str, endpoint_id: str, *, keep_old: bool
) -> WebhookEndpointRow:
    row = await get_endpoint(session, project_id, endpoint_id, for_update=True)
    now = time.time()
    old_secrets = []
    if keep_old:
        kept = [old for old in row.old_secrets if old["expires_at"] > now]
        old_secrets = [{"secret": row.secret, "expires_at": now + OLD_SECRET_TIME.total_seconds()}, *kept]
        if len(old_secrets) > MAX_OLD_SECRETS:
            raise InvalidRequest(
                f"{MAX_OLD_SECRETS} old secrets of this endpoint are still active, which is the most. Wait until one "
                "runs out, or rotate without keeping them.",
                param="keep_old_secret_active_for_24_hours",
            )
    row.secret, row.old_secrets, row.updated_at = new_secret(), old_secrets, now
    return row


async def delete_endpoint(session: AsyncSession, project_id: str, endpoint_id: str) -> None:
    """Nothing is sent to it any more, and nobody needs its secrets."""
    row = await get_endpoint(session, project_id, endpoint_id, for_update=True)
    row.deleted_at = time.time()
    row.secret, row.old_secrets = "", []
    await repository.cancel_deliveries(session, endpoint_id)


async def send_test_event(
    sessions: Sessions, sender: Sender, project_id: str, endpoint_id: str, event_type: EventType
) -> int:
    """The status that the endpoint answered."""
    async with sessions.begin() as session:
        endpoint = await get_endpoint(session, project_id, endpoint_id)
    delivery = WebhookDeliveryRow(
        id=new_webhook_delivery_id(),
        endpoint_id=endpoint_id,
        event_id=new_webhook_event_id(),
        event_type=event_type,
        object_id=_SAMPLE_IDS[event_type.partition(".")[0]],
        is_test=True,
        created_at=time.time(),
    )
    attempt = await sender.send(delivery, endpoint)
    delivery.attempts = [attempt.model_dump()]
    delivery.status = "delivered" if attempt.has_succeeded else "failed"
    async with sessions.begin() as session:
        session.add(delivery)
    if attempt.status_code is None:
        raise InvalidRequest(f"The endpoint was not reached. {attempt.error}", code="webhook_endpoint_not_reached")
    return attempt.status_code


def _check(addresses: Addresses, asked: CreateWebhookEndpoint | UpdateWebhookEndpoint) -> None:
    if asked.name is not None and not (asked.name.isprintable() and asked.name.strip()):
        raise InvalidRequest(f"{asked.name!r} must be printable and more than spaces - 'name'", param="name")
    if asked.event_types is not None and len(set(asked.event_types)) != len(asked.event_types):
        raise InvalidRequest("Each event type may be there once - 'event_types'", param="event_types")
    if asked.url is not None:
        try:
            addresses.check_url(asked.url)
        except AddressRefused as error:
            raise InvalidRequest(f"Webhooks cannot be sent to this URL. {error}", param="url") from error
