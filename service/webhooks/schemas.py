"""Webhook endpoints as OpenAI's clients send and read them, and the log of deliveries, which is ours."""

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field

from service.database.tables import WebhookDeliveryRow, WebhookEndpointRow
from service.pagination import Identified
from service.webhooks.addresses import MAX_URL_LENGTH
from service.webhooks.signatures import secret_hint

EventType = Literal[
    "fine_tuning.job.succeeded",
    "fine_tuning.job.failed",
    "fine_tuning.job.cancelled",
    "batch.completed",
    "batch.failed",
    "batch.expired",
    "batch.cancelled",
]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

DeliveryStatus = Literal["pending", "delivered", "failed", "cancelled"]

Name = Annotated[str, Field(min_length=1, max_length=256, description="For people.", examples=["Training room"])]
Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_URL_LENGTH,
        description="An `https` URL of a public host, without user, password and fragment.",
        json_schema_extra={"format": "uri"},
        examples=["https://example.com/fettle"],
    ),
]
EventTypes = Annotated[
    list[EventType],
    Field(
        min_length=1,
        max_length=len(EVENT_TYPES),
        description="What the endpoint is told, each once.",
        json_schema_extra={"uniqueItems": True},
        examples=[["fine_tuning.job.succeeded", "fine_tuning.job.failed"]],
    ),
]


class CreateWebhookEndpoint(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    url: Url
    event_types: EventTypes


class UpdateWebhookEndpoint(BaseModel):
    """What is left out, or null, stays as it is."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    url: Url | None = None
    event_types: EventTypes | None = None


class RotateSecret(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keep_old_secret_active_for_24_hours: bool = Field(
        False,
        strict=True,
        description="Requests then carry a second signature, made with the old secret, so that receivers can be "
        "changed without a gap. Otherwise every older secret is void at once.",
    )


class SendTestEvent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    event_type: EventType


class WebhookEndpoint(Identified):
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    id: str = Field(examples=["whe_3bs0p4nJaVgKqpwiteP20Abc"])
    created_at: int
    updated_at: int = Field(description="Of the last change to its settings or its secret.")
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str = Field(description="The end of the secret.", examples=["whsec_***h7Kc="])

    @classmethod
    def from_row(cls, row: WebhookEndpointRow) -> Self:
        return cls.model_validate(_fields(row))


class WebhookEndpointWithSecret(WebhookEndpoint):
    signing_secret: str = Field(
        description="Requests to the endpoint are signed with it. Shown here and never again.",
        examples=["whsec_c2VjcmV0IG9mIHRoaXMgZG9jdW1lbnRhdGlvbiE="],
        repr=False,
    )

    @classmethod
    def from_row(cls, row: WebhookEndpointRow) -> Self:
        return cls.model_validate(_fields(row) | {"signing_secret": row.secret})


def _fields(row: WebhookEndpointRow) -> dict[str, object]:
    return {
        "id": row.id,
        "created_at": int(row.created_at),
        "updated_at": int(row.updated_at),
        "name": row.name,
        "url": row.url,
        "event_types": row.event_types,
        "signing_secret_hint": secret_hint(row.secret),
    }


class DeletedWebhookEndpoint(BaseModel):
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    id: str
    deleted: Literal[True] = True


class WebhookEndpointTestResult(BaseModel):
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    webhook_endpoint_id: str
    event_type: str
    success: Literal[True] = Field(True, description="There was an answer; `status_code` says which.")
    status_code: int


class WebhookEventTypeList(BaseModel):
    object: Literal["list"] = "list"
    data: list[str] = list(EVENT_TYPES)


class DeliveryAttempt(BaseModel):
    """What became of one request. The answer's words are the receiver's: nothing here vouches for them."""

    started_at: int
    duration_ms: int
    status_code: int | None = Field(description="Null: there was no answer, and `error` says why.")
    response_body: str | None = Field(description="Its beginning.")
    error: str | None = Field(examples=["The connection was refused."])

    @property
    def has_succeeded(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


class WebhookDelivery(BaseModel):
    object: Literal["webhook_endpoint.delivery"] = "webhook_endpoint.delivery"
    id: str = Field(examples=["whd_hcQdzYUqPZ0VvvXCJwpQ1S3o"])
    webhook_endpoint_id: str
    event_id: str = Field(
        description="The `webhook-id` of every attempt.", examples=["evt_0d5f1c6a5c2b4f3a8e7d9b1a2c3d4e5f"]
    )
    event_type: str
    object_id: str = Field(description="The job or batch.", examples=["ftjob-3bs0p4nJaVgKqpwiteP20Abc"])
    is_test: bool = Field(description="Sent by `/test`: it is not tried again.")
    created_at: int
    status: DeliveryStatus = Field(
        description="`failed`: no attempt is left. `cancelled`: its endpoint was deleted before it came through."
    )
    next_attempt_at: int | None
    attempts: list[DeliveryAttempt] = Field(description="Oldest first.")

    @classmethod
    def from_row(cls, row: WebhookDeliveryRow) -> Self:
        return cls.model_validate(
            {
                "id": row.id,
                "webhook_endpoint_id": row.endpoint_id,
                "event_id": row.event_id,
                "event_type": row.event_type,
                "object_id": row.object_id,
                "is_test": row.is_test,
                "created_at": int(row.created_at),
                "status": row.status,
                "next_attempt_at": None if row.due_at is None else int(row.due_at),
                "attempts": row.attempts,
            }
        )
