"""Every table. `seq` orders rows as they were made; ids are what clients see. Times are Unix seconds.

Everything that a client makes belongs to a project, itself or through its parent: who asks for a row names the project.
A deleted row stays, with `deleted_at`: it remains a valid cursor for lists.
"""

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, Integer, MetaData, String, UniqueConstraint, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

# SQLite counts only INTEGER primary keys up by itself.
_Sequence = BigInteger().with_variant(Integer, "sqlite")


class Table(DeclarativeBase):
    # names, so that a later migration can drop them on SQLite too
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON,
        float: Double,
        int: BigInteger,
    }


class ListedTable(Table):
    """What clients walk through page by page, with an id as their cursor."""

    __abstract__ = True

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), unique=True)


class ClaimedTable(ListedTable):
    """What loops of the service work on, one at a time for each row; see `claims.py`."""

    __abstract__ = True

    due_at: Mapped[float | None]
    """When a loop looks at this row next; None: never again."""
    lock_token: Mapped[str | None]
    lock_expires_at: Mapped[float | None]


class OrganizationRow(ListedTable):
    __tablename__ = "organizations"

    created_at: Mapped[float]
    name: Mapped[str] = mapped_column(unique=True)
    """The third part of a tuned model's name."""


class ProjectRow(ListedTable):
    __tablename__ = "projects"
    __table_args__ = (Index(None, "organization_id", "seq"),)

    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    created_at: Mapped[float]
    name: Mapped[str]
    archived_at: Mapped[float | None]
    """From then on its keys open nothing; its rows stay."""


class ApiKeyRow(ListedTable):
    __tablename__ = "api_keys"
    __table_args__ = (Index(None, "organization_id", "project_id", "seq"),)

    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id"))
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"))
    """None: an admin key, which opens every project of its organization."""
    created_at: Mapped[float]
    name: Mapped[str]
    role: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    """Of the key, hexadecimal. Keys are long and random, so a slow hash would protect nothing."""
    redacted_value: Mapped[str]
    last_used_at: Mapped[float | None]
    """To the minute."""
    expires_at: Mapped[float | None]
    revoked_at: Mapped[float | None]


class FileRow(ListedTable):
    __tablename__ = "files"
    __table_args__ = (
        Index(None, "project_id", "seq"),
        Index(None, "project_id", "purpose", "seq"),
        Index(None, "expires_at", postgresql_where=text("deleted_at IS NULL"), sqlite_where=text("deleted_at IS NULL")),
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[float]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    expires_at: Mapped[float | None]
    """None: it is kept until somebody deletes it."""
    deleted_at: Mapped[float | None]


class UploadRow(ListedTable):
    """A large file on its way in, part by part."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "project_id", "seq"), Index(None, "status", "expires_at"))

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[float]
    expires_at: Mapped[float]
    filename: Mapped[str]
    purpose: Mapped[str]
    mime_type: Mapped[str]
    bytes: Mapped[int]
    """As announced: the parts must make exactly so many."""
    file_expires_after: Mapped[int | None]
    """Seconds that the finished file is kept."""
    status: Mapped[str]
    """A pending one is expired from `expires_at` on; the sweeper writes that down later."""
    file_id: Mapped[str | None]
    completion_sha256: Mapped[str | None]
    """Of the request that completed it: the same request is answered the same way again."""


class UploadPartRow(ListedTable):
    __tablename__ = "upload_parts"
    __table_args__ = (Index(None, "upload_id", "seq"),)

    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id"))
    created_at: Mapped[float]
    bytes: Mapped[int]


class RemovalRow(Table):
    """Bytes that no other row names: of a new object until its row is there, and of an old one whose row has ended."""

    __tablename__ = "removals"
    __table_args__ = (Index(None, "due_at"),)

    key: Mapped[str] = mapped_column(primary_key=True)
    """In object storage; with a slash at its end, everything below it."""
    due_at: Mapped[float]
    """When the sweeper removes them."""


class JobRow(ClaimedTable):
    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "due_at"),
        Index(None, "execution"),
        Index(None, "status", "seq"),
        Index(None, "project_id", "seq"),
    )

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[float]
    status: Mapped[str]
    """Changes only through `fine_tuning/status.py`."""
    model: Mapped[str]
    """As asked for: a base model's name or, to go on from one, a tuned model's."""
    base_model: Mapped[str]
    """Its name in the catalogue."""
    parent_adapter_sha256: Mapped[str | None]
    """The adapter that training goes on from."""
    model_name: Mapped[str]
    """What the tuned model will be called; checkpoints before the last step append their step to it."""
    training_file: Mapped[str]
    validation_file: Mapped[str | None]
    suffix: Mapped[str | None]
    seed: Mapped[int]
    job_metadata: Mapped[dict[str, Any] | None]
    method_type: Mapped[str]
    hyperparameters: Mapped[dict[str, Any]]
    """As asked for, "auto" included, until validation resolves them."""
    integrations: Mapped[list[Any]] = mapped_column(JSON, default=list)

    error: Mapped[dict[str, Any] | None]
    started_at: Mapped[float | None]
    finished_at: Mapped[float | None]
    estimated_finish: Mapped[float | None]
    fine_tuned_model: Mapped[str | None]
    trained_tokens: Mapped[int | None]
    result_files: Mapped[list[str]]

    training_receipt: Mapped[dict[str, Any] | None]
    """`tuning.data.receipt.DataReceipt`, from validation on."""
    validation_receipt: Mapped[dict[str, Any] | None]
    attempt: Mapped[int] = mapped_column(default=0)
    """Starts so far."""
    resources: Mapped[dict[str, Any] | None]
    """What the job asked for of `TrainingResources`; the rest comes from the catalogue."""
    x_training: Mapped[dict[str, Any] | None]
    """The rest of the extension object, as asked for."""
    x_resolved: Mapped[dict[str, Any] | None]
    """What decides about the training, each value with its source; from validation on."""
    evaluation: Mapped[dict[str, Any] | None]
    """Base and tuned model on held-out rows, once both have answered."""
    seconds: Mapped[dict[str, Any] | None]
    """By stage, of a run that succeeded: what estimates learn from."""
    not_before: Mapped[float | None]
    """A queued job waits until then for its next attempt: it has crashed."""
    execution: Mapped[str | None]
    """The execution that may be alive; None: nothing of this job runs anywhere."""
    launched_at: Mapped[float | None]
    """When the execution was started; until it has a place, the job stays queued."""
    next_event_part: Mapped[int] = mapped_column(default=1)
    """Of the current attempt: the part to read next."""
    is_paused: Mapped[bool] = mapped_column(default=False)
    """Held by its owner until it is resumed."""
    stopping_since: Mapped[float | None]
    """When its execution was told to stop and leave a state to go on from; None: it was not."""
    resume_from: Mapped[str | None]
    """The storage folder of the newest state."""
    crashes: Mapped[int] = mapped_column(default=0)
    """Executions that ended without a result and without being told to."""


class JobMetadataRow(Table):
    """The pairs of `JobRow.job_metadata` once more, for the filter of the list."""

    __tablename__ = "job_metadata"
    __table_args__ = (Index(None, "key", "value", "job_seq"),)

    job_seq: Mapped[int] = mapped_column(ForeignKey("jobs.seq"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512))


class EventRow(ListedTable):
    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job_id", "key"), Index(None, "job_id", "seq"))

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    key: Mapped[str]
    """What this event is about, once for each job: a step that is repeated adds no second one."""
    created_at: Mapped[float]
    level: Mapped[str]
    message: Mapped[str]
    type: Mapped[str]
    data: Mapped[dict[str, Any] | None]


class CheckpointRow(ListedTable):
    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "model"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[float]
    step_number: Mapped[int]
    """Two may have the same: the tuned model, and the checkpoint that turned out to be the best."""
    model: Mapped[str]
    """The name under which it is served."""
    adapter_sha256: Mapped[str]
    metrics: Mapped[dict[str, Any]]


class ModelRow(Table):
    """A public name for an adapter: the alias above the content hash."""

    __tablename__ = "models"
    __table_args__ = (Index(None, "project_id", "seq"),)

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[float]
    base_model: Mapped[str]
    adapter_sha256: Mapped[str]
    deleted_at: Mapped[float | None]


class CheckpointPermissionRow(ListedTable):
    """Lets the keys of one more project use a tuned model."""

    __tablename__ = "checkpoint_permissions"
    __table_args__ = (
        Index(
            "uq_checkpoint_permissions_model_project_id",
            *("model", "project_id"),
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
        Index(None, "model", "seq"),
        Index(None, "project_id", "model"),
    )

    model: Mapped[str]
    """A name of the models table: a permission holds for what a second attempt of the job makes, too."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    """Who may use it."""
    created_at: Mapped[float]
    deleted_at: Mapped[float | None]


class BatchRow(ClaimedTable):
    """A file of requests. What is done of it stands in object storage (`batches/results.py`); the counts follow."""

    __tablename__ = "batches"
    __table_args__ = (Index(None, "project_id", "seq"), Index(None, "due_at"))

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[float]
    expires_at: Mapped[float]
    """The end of its window: what has no answer by then gets none."""
    status: Mapped[str]
    """Changes only through `batches/status.py`."""
    endpoint: Mapped[str]
    input_file_id: Mapped[str]
    output_expires_after: Mapped[int | None]
    """Seconds that the files it makes are kept."""
    batch_metadata: Mapped[dict[str, Any] | None]

    model: Mapped[str | None]
    """Of all its requests; from validation on."""
    total_requests: Mapped[int] = mapped_column(default=0)
    completed_requests: Mapped[int] = mapped_column(default=0)
    failed_requests: Mapped[int] = mapped_column(default=0)
    input_tokens: Mapped[int] = mapped_column(default=0)
    cached_tokens: Mapped[int] = mapped_column(default=0)
    output_tokens: Mapped[int] = mapped_column(default=0)
    reasoning_tokens: Mapped[int] = mapped_column(default=0)
    errors: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    """`batches.input_check.InputError`, of a batch that failed."""
    output_file_id: Mapped[str | None]
    error_file_id: Mapped[str | None]

    in_progress_at: Mapped[float | None]
    finalizing_at: Mapped[float | None]
    completed_at: Mapped[float | None]
    failed_at: Mapped[float | None]
    expired_at: Mapped[float | None]
    cancelling_at: Mapped[float | None]
    cancelled_at: Mapped[float | None]


class WebhookEndpointRow(ListedTable):
    """A URL that is told how jobs and batches ended."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index(None, "project_id", "seq"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    created_at: Mapped[float]
    updated_at: Mapped[float]
    name: Mapped[str]
    url: Mapped[str]
    event_types: Mapped[list[str]]
    secret: Mapped[str]
    """In clear, for we sign with it. Empty once the endpoint is deleted."""
    old_secrets: Mapped[list[Any]] = mapped_column(JSON, default=list)
    """`{secret, expires_at}`: they sign beside the new one until then."""
    deleted_at: Mapped[float | None]


class WebhookDeliveryRow(ClaimedTable):
    """One event on its way to one endpoint, written in the transaction that the event is about."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("endpoint_id", "event_id"),
        Index(None, "endpoint_id", "seq"),
        Index(None, "due_at"),
    )

    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id"))
    event_id: Mapped[str] = mapped_column(String(64))
    """The same one for all endpoints of a project, and for all attempts."""
    event_type: Mapped[str]
    object_id: Mapped[str]
    """The job or batch that ended."""
    is_test: Mapped[bool]
    created_at: Mapped[float]
    status: Mapped[str]
    """pending, delivered, failed or cancelled."""
    attempts: Mapped[list[Any]] = mapped_column(JSON, default=list)
    """`webhooks.sending.Attempt`, oldest first."""


class IdempotencyKeyRow(Table):
    """What a POST with an `Idempotency-Key` answered, kept for a day."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index(None, "created_at"),)

    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    created_at: Mapped[float]
    request_sha256: Mapped[str]
    status: Mapped[int | None]
    """None only inside the transaction that carries the request out."""
    answer: Mapped[str | None]
    """JSON. None: it held a secret, which is shown once."""
