"""Organizations, projects and keys as OpenAI's admin clients send and read them."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, StringConstraints
from pydantic_core import PydanticCustomError

from service.database.tables import ApiKeyRow, OrganizationRow, ProjectRow
from service.pagination import Identified
from service.settings import ORGANIZATION_NAME_PATTERN
from service.unix_time import whole_seconds

MAX_KEY_LIFE_SECONDS = 10 * 365 * 24 * 3600  # "forever" is said by leaving the field out

_VALUE_EXAMPLE = "sk-fettle-0d5f1c6a5c2b4f3a8e7d9b1a2c3d4e5f6a7b8c9x7Qd"

_KEY_EXAMPLE: dict[str, JsonValue] = {
    "id": "key_P2oRGGJ4hX5bV0tcKqEw81uS",
    "created_at": 1795263543,
    "name": "nightly evaluation",
    "redacted_value": "sk-***x7Qd",
    "last_used_at": None,
    "expires_at": None,
}


def _printable(name: str) -> str:
    if not (name.isprintable() and name.strip()):
        raise PydanticCustomError("name", "it must be printable and not blank")
    return name


def _not_carried_out(value: object) -> None:
    if value is not None:
        raise PydanticCustomError("not_carried_out", "this server does not carry it out; leave it out")


Name = Annotated[
    str, StringConstraints(min_length=1, max_length=128), AfterValidator(_printable), Field(description="For people.")
]
NotCarriedOut = Annotated[
    None, BeforeValidator(_not_carried_out), Field(description="Refused unless null: this server has nothing like it.")
]
Lifetime = Annotated[
    int | None,
    Field(
        ge=1,
        le=MAX_KEY_LIFE_SECONDS,
        strict=True,
        description="Seconds from now until the key opens nothing any more; left out: it does not expire.",
    ),
]
KeyRole = Literal["reader", "writer"]


class Organization(Identified):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "organization",
                    "id": "org-7Hb2kV9sQxTzW1mN4pLcRdYf",
                    "created_at": 1795263543,
                    "name": "acme",
                }
            ]
        }
    )

    object: Literal["organization"] = "organization"
    created_at: int
    name: str = Field(description="The third part of its tuned models' names.")

    @classmethod
    def from_row(cls, row: OrganizationRow) -> Self:
        return cls(id=row.id, created_at=int(row.created_at), name=row.name)


class CreateOrganization(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "acme"}]})

    name: str = Field(
        pattern=ORGANIZATION_NAME_PATTERN,
        description="1 to 64 small letters, digits and hyphens; it becomes the third part of tuned models' names.",
    )


class Project(Identified):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "organization.project",
                    "id": "proj_h4ZkT2vQ8sXnB6mR1wLcYdPf",
                    "created_at": 1795263543,
                    "archived_at": None,
                    "name": "support",
                    "status": "active",
                }
            ]
        }
    )

    object: Literal["organization.project"] = "organization.project"
    created_at: int
    archived_at: int | None
    name: str
    status: Literal["active", "archived"]

    @classmethod
    def from_row(cls, row: ProjectRow) -> Self:
        return cls(
            id=row.id,
            created_at=int(row.created_at),
            archived_at=whole_seconds(row.archived_at),
            name=row.name,
            status="active" if row.archived_at is None else "archived",
        )


class CreateProject(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "support"}]})

    name: Name
    geography: NotCarriedOut = None
    residency: NotCarriedOut = None
    external_key_id: NotCarriedOut = None


class UpdateProject(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "customer support"}]})

    name: Name | None = None
    geography: NotCarriedOut = None
    external_key_id: NotCarriedOut = None


class _KeyAccount(BaseModel):
    """There are no people and no service accounts here: a key stands for itself."""

    id: str
    created_at: int
    name: str
    role: str

    @classmethod
    def from_row(cls, row: ApiKeyRow, role: str) -> Self:
        return cls(id=row.id, created_at=int(row.created_at), name=row.name, role=role)


class ProjectKeyOwner(BaseModel):
    type: Literal["service_account"] = "service_account"
    service_account: _KeyAccount


class ProjectApiKey(Identified):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "organization.project.api_key",
                    **_KEY_EXAMPLE,
                    "role": "reader",
                    "owner": {
                        "type": "service_account",
                        "service_account": {
                            "id": "key_P2oRGGJ4hX5bV0tcKqEw81uS",
                            "created_at": 1795263543,
                            "name": "nightly evaluation",
                            "role": "member",
                        },
                    },
                    "owner_project_access": "active",
                }
            ]
        }
    )

    object: Literal["organization.project.api_key"] = "organization.project.api_key"
    created_at: int
    name: str
    role: KeyRole = Field(description="An extension: `reader` reads and asks models, `writer` changes things too.")
    redacted_value: str = Field(description="Its end, to tell keys apart.")
    last_used_at: int | None = Field(description="To the minute.")
    expires_at: int | None
    owner: ProjectKeyOwner
    owner_project_access: Literal["active", "inactive"] = Field(description="`inactive`: the project is archived.")

    @classmethod
    def from_row(cls, row: ApiKeyRow, project: ProjectRow) -> Self:
        return cls(
            id=row.id,
            created_at=int(row.created_at),
            name=row.name,
            role="writer" if row.role == "writer" else "reader",
            redacted_value=row.redacted_value,
            last_used_at=whole_seconds(row.last_used_at),
            expires_at=whole_seconds(row.expires_at),
            owner=ProjectKeyOwner(service_account=_KeyAccount.from_row(row, "member")),
            owner_project_access="active" if project.archived_at is None else "inactive",
        )


class CreatedProjectApiKey(ProjectApiKey):
    value: str = Field(description="The key itself, shown this once.", examples=[_VALUE_EXAMPLE])

    @classmethod
    def of(cls, row: ApiKeyRow, project: ProjectRow, value: str) -> Self:
        return cls(**ProjectApiKey.from_row(row, project).model_dump(), value=value)


class CreateProjectApiKey(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "nightly evaluation", "role": "reader"}]}
    )

    name: Name
    role: KeyRole = Field(description="For the role `admin` make an admin key, which is of the whole organization.")
    expires_in_seconds: Lifetime = None


class UpdateProjectApiKey(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"expires_in_seconds": 86400}]})

    expires_in_seconds: Lifetime = None
    role: KeyRole | None = Field(None, description="An extension.")
    scopes: Annotated[NotCarriedOut, Field(description="Refused unless null: send `role` instead.")] = None


class AdminKeyOwner(_KeyAccount):
    object: Literal["organization.service_account"] = "organization.service_account"
    type: Literal["service_account"] = "service_account"


class AdminApiKey(Identified):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "organization.admin_api_key",
                    **_KEY_EXAMPLE,
                    "owner": {
                        "object": "organization.service_account",
                        "type": "service_account",
                        "id": "key_P2oRGGJ4hX5bV0tcKqEw81uS",
                        "created_at": 1795263543,
                        "name": "nightly evaluation",
                        "role": "owner",
                    },
                }
            ]
        }
    )

    object: Literal["organization.admin_api_key"] = "organization.admin_api_key"
    created_at: int
    name: str
    redacted_value: str = Field(description="Its end, to tell keys apart.")
    last_used_at: int | None = Field(description="To the minute.")
    expires_at: int | None
    owner: AdminKeyOwner

    @classmethod
    def from_row(cls, row: ApiKeyRow) -> Self:
        return cls(
            id=row.id,
            created_at=int(row.created_at),
            name=row.name,
            redacted_value=row.redacted_value,
            last_used_at=whole_seconds(row.last_used_at),
            expires_at=whole_seconds(row.expires_at),
            owner=AdminKeyOwner.from_row(row, "owner"),
        )


class CreatedAdminApiKey(AdminApiKey):
    value: str = Field(description="The key itself, shown this once.", examples=[_VALUE_EXAMPLE])

    @classmethod
    def of(cls, row: ApiKeyRow, value: str) -> Self:
        return cls(**AdminApiKey.from_row(row).model_dump(), value=value)


class CreateAdminApiKey(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "operations"}]})

    name: Name
    expires_in_seconds: Lifetime = None


class DeletedProjectApiKey(BaseModel):
    object: Literal["organization.project.api_key.deleted"] = "organization.project.api_key.deleted"
    id: str
    deleted: Literal[True] = True


class DeletedAdminApiKey(BaseModel):
    object: Literal["organization.admin_api_key.deleted"] = "organization.admin_api_key.deleted"
    id: str
    deleted: Literal[True] = True
