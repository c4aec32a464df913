"""What is to be delivered, and when it is tried again."""

import random
import time
from datetime import timedelta
from http import HTTPStatus

from sqlalchemy.ext.asyncio import AsyncSession

from service.database.tables import WebhookDeliveryRow
from service.ids import new_webhook_delivery_id, webhook_event_id
from service.webhooks import repository
from service.webhooks.schemas import EVENT_TYPES, DeliveryAttempt, DeliveryStatus

RETRY_DELAYS = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    *[timedelta(hours=10)] * 6,  # the twelfth and last attempt is made after not quite three days
)
JITTER = 0.1
"""Of a delay, at random: what failed together is not sent again together."""


async def record_event(session: AsyncSession, project_id: str, event_type: str, object_id: str) -> None:
    """Call it in the transaction that makes it true: then it is told exactly when it became so.

    It happens once to an object: a second record of it breaks the transaction.
    """
    assert event_type in EVENT_TYPES, event_type
    now = time.time()
    session.add_all(
        WebhookDeliveryRow(
            id=new_webhook_delivery_id(),
            endpoint_id=endpoint.id,
            event_id=webhook_event_id(event_type, object_id),
            event_type=event_type,
            object_id=object_id,
            is_test=False,
            created_at=now,
            status="pending",
            due_at=now,
        )
        for endpoint in await repository.all_endpoints(session, project_id)
        if event_type in endpoint.event_types
    )


def after_attempt(attempt: DeliveryAttempt, number: int) -> tuple[DeliveryStatus, timedelta | None]:
    """What the delivery is after its attempt of this number, from 1, and how long until the next one."""
    if attempt.has_succeeded:
        return "delivered", None
    if attempt.status_code == HTTPStatus.GONE:  # Standard Webhooks' word for: send this no more
        return "failed", None
    if number > len(RETRY_DELAYS):
        return "failed", None
    return "pending", RETRY_DELAYS[number - 1] * random.uniform(1, 1 + JITTER)
