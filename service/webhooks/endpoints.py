"""`/v1/webhook_endpoints` and `/v1/webhook_event_types`."""

from typing import Annotated

from fastapi import APIRouter, Query

from service.api_route import ONCE_SHOWN
from service.auth import Reader, Writer
from service.dependencies import NewSessions, Session, WebhookSender
from service.pagination import After, Page, PageWithEnds
from service.webhooks import repository, webhook_endpoints
from service.webhooks.schemas import (
    CreateWebhookEndpoint,
    DeletedWebhookEndpoint,
    RotateSecret,
    SendTestEvent,
    UpdateWebhookEndpoint,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEndpointTestResult,
    WebhookEndpointWithSecret,
    WebhookEventTypeList,
)

router = APIRouter(tags=["Webhooks"])

Limit = Annotated[int, Query(ge=0, le=100, description="How many objects a page holds.")]


@router.get("/webhook_event_types")
async def list_webhook_event_types(caller: Reader) -> WebhookEventTypeList:
    """The events that an endpoint can be told about."""
    return WebhookEventTypeList()


@router.post("/webhook_endpoints", openapi_extra={ONCE_SHOWN: True})
async def create_webhook_endpoint(
    body: CreateWebhookEndpoint, caller: Writer, session: Session, sender: WebhookSender
) -> WebhookEndpointWithSecret:
    """Makes an endpoint, which is told from now on when a job or batch of this project ends.

    Each event is sent as a POST of `{id, object, type, created_at, data: {id}}`, signed with `signing_secret` after
    Standard Webhooks: `client.webhooks.unwrap` of OpenAI's SDKs verifies it. The secret is shown here and never again.
    Any answer of 2xx within 15 seconds means that the event came through; after any other, and after none, it is sent
    again, with the same `webhook-id`, over almost three days. A receiver may get an event twice, and in any order.
    """
    row = await webhook_endpoints.create_endpoint(session, sender.addresses, caller.project_id, body)
    return WebhookEndpointWithSecret.from_row(row)


@router.get("/webhook_endpoints")
async def list_webhook_endpoints(
    caller: Reader, session: Session, after: After = None, limit: Limit = 20
) -> PageWithEnds[WebhookEndpoint]:
    """The endpoints of this project, newest first."""
    rows, has_more = await repository.list_endpoints(session, caller.project_id, after=after, limit=limit)
    return PageWithEnds.of([WebhookEndpoint.from_row(row) for row in rows], has_more)


@router.get("/webhook_endpoints/{webhook_endpoint_id}")
async def retrieve_webhook_endpoint(webhook_endpoint_id: str, caller: Reader, session: Session) -> WebhookEndpoint:
    """One endpoint, without its secret."""
    row = await webhook_endpoints.get_endpoint(session, caller.project_id, webhook_endpoint_id)
    return WebhookEndpoint.from_row(row)


@router.post("/webhook_endpoints/{webhook_endpoint_id}")
async def update_webhook_endpoint(
    webhook_endpoint_id: str, body: UpdateWebhookEndpoint, caller: Writer, session: Session, sender: WebhookSender
) -> WebhookEndpoint:
    """Changes an endpoint's name, URL or events. Events that are still on their way go to the new URL."""
    row = await webhook_endpoints.update_endpoint(
        session, sender.addresses, caller.project_id, webhook_endpoint_id, body
    )
    return WebhookEndpoint.from_row(row)


@router.delete("/webhook_endpoints/{webhook_endpoint_id}")
async def delete_webhook_endpoint(webhook_endpoint_id: str, caller: Writer, session: Session) -> DeletedWebhookEndpoint:
    """Deletes an endpoint. Events that are still on their way to it are not sent again."""
    await webhook_endpoints.delete_endpoint(session, caller.project_id, webhook_endpoint_id)
    return DeletedWebhookEndpoint(id=webhook_endpoint_id)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/rotate_secret", openapi_extra={ONCE_SHOWN: True})
async def rotate_webhook_endpoint_secret(
    webhook_endpoint_id: str, caller: Writer, session: Session, body: RotateSecret | None = None
) -> WebhookEndpointWithSecret:
    """Gives an endpoint a new secret, shown here and never again. Events still on their way are signed with it too."""
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours
    row = await webhook_endpoints.rotate_secret(session, caller.project_id, webhook_endpoint_id, keep_old=keep_old)
    return WebhookEndpointWithSecret.from_row(row)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/test")
async def test_webhook_endpoint(
    webhook_endpoint_id: str, body: SendTestEvent, caller: Writer, sessions: NewSessions, sender: WebhookSender
) -> WebhookEndpointTestResult:
    """Sends one event of this type about a job or batch that does not exist, once, and tells what was answered.

    It is signed as any other. An endpoint that cannot be reached at all answers 400, with the reason.
    """
    status_code = await webhook_endpoints.send_test_event(
        sessions, sender, caller.project_id, webhook_endpoint_id, body.event_type
    )
    return WebhookEndpointTestResult(
        webhook_endpoint_id=webhook_endpoint_id, event_type=body.event_type, status_code=status_code
    )


@router.get("/webhook_endpoints/{webhook_endpoint_id}/deliveries")
async def list_webhook_deliveries(
    webhook_endpoint_id: str, caller: Reader, session: Session, after: After = None, limit: Limit = 20
) -> Page[WebhookDelivery]:
    """What was sent to an endpoint, newest first, with every attempt. An extension to OpenAI's API."""
    await webhook_endpoints.get_endpoint(session, caller.project_id, webhook_endpoint_id)
    rows, has_more = await repository.list_deliveries(session, webhook_endpoint_id, after=after, limit=limit)
    return Page(data=[WebhookDelivery.from_row(row) for row in rows], has_more=has_more)
