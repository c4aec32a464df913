"""Every table. `seq` orders rows as they were made; ids are what clients see. Times are Unix seconds.

A deleted row stays, with `deleted_at`: it remains a valid cursor for lists.
"""

from typing import Any, ClassVar

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, Integer, MetaData, String, UniqueConstraint
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


class FileRow(ListedTable):
    __tablename__ = "files"

    created_at: Mapped[float]
    filename: Mapped[str]
    purpose: Mapped[str]
    bytes: Mapped[int]
    sha256: Mapped[str]
    deleted_at: Mapped[float | None]


class JobRow(ListedTable):
    __tablename__ = "jobs"
    __table_args__ = (Index(None, "due_at"), Index(None, "execution"), Index(None, "status", "seq"))

    created_at: Mapped[float]
    status: Mapped[str]
    """Changes only through `fine_tuning/status.py`."""
    model: Mapped[str]
    """The base model's name in the catalogue."""
    training_file: Mapped[str]
    validation_file: Mapped[str | None]
    suffix: Mapped[str | None]
    seed: Mapped[int]
    job_metadata: Mapped[dict[str, Any] | None]
    method_type: Mapped[str]
    hyperparameters: Mapped[dict[str, Any]]
    """As asked for, "auto" included, until validation resolves them."""

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
    execution: Mapped[str | None]
    """The execution that may be alive; None: nothing of this job runs anywhere."""
    next_event_part: Mapped[int] = mapped_column(default=1)
    """Of the current attempt: the part to read next."""

    due_at: Mapped[float | None]
    """When the dispatcher looks at this row next; None: never again."""
    lock_token: Mapped[str | None]
    lock_expires_at: Mapped[float | None]


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
    __table_args__ = (UniqueConstraint("job_id", "step_number"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[float]
    step_number: Mapped[int]
    model: Mapped[str]
    """The name under which it is served."""
    adapter_sha256: Mapped[str]
    metrics: Mapped[dict[str, Any]]


class ModelRow(Table):
    """A public name for an adapter: the alias above the content hash."""

    __tablename__ = "models"

    seq: Mapped[int] = mapped_column(_Sequence, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), index=True)
    created_at: Mapped[float]
    base_model: Mapped[str]
    adapter_sha256: Mapped[str]
    deleted_at: Mapped[float | None]
