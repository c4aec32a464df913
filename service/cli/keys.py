"""`fettle keys …`."""

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import DEFAULT_BASE_URL, NO_API_KEY, ApiKey, BaseUrl, Organization

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.admin.organization import AdminAPIKey
    from openai.types.admin.organization.projects import ProjectAPIKey

app = typer.Typer(help="API keys, of projects and of admins.", no_args_is_help=True)


class KeyRole(StrEnum):
    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"


@app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="For people: who or what uses it.")],
    role: Annotated[KeyRole, typer.Option(help="reader asks models, writer tunes them, admin manages projects.")],
    project: Annotated[str | None, typer.Option(metavar="ID", help="What a reader or writer may see.")] = None,
    expires_in_seconds: Annotated[int | None, typer.Option(min=1, help="[default: never]", show_default=False)] = None,
    organization: Organization = "",
    base_url: BaseUrl = DEFAULT_BASE_URL,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """Make a key and print it, this once: `KEY=$(fettle keys create …)`."""
    from service.cli.client import connect

    if (role is KeyRole.ADMIN) != (project is None):
        raise typer.BadParameter(
            "an admin key is of the whole organization; leave --project out."
            if project
            else f"which project is the {role} for? `fettle projects list` has their ids.",
            param_hint="--project",
        )
    body: dict[str, Any] = {"name": name}
    if expires_in_seconds is not None:
        body["expires_in_seconds"] = expires_in_seconds
    with connect(base_url, api_key, organization) as client:
        if project is None:
            created = client.admin.organization.admin_api_keys.create(**body)
            key_id, value = created.id, created.value
        else:
            key_id, value = _create_project_key(client, project, body | {"role": role.value})
    typer.echo(f"{key_id}: keep the key, it is shown only now.", err=True)
    print(value)


@app.command("list")
def list_keys(
    project: Annotated[str | None, typer.Option(metavar="ID", help="Only this project's.")] = None,
    organization: Organization = "",
    base_url: BaseUrl = DEFAULT_BASE_URL,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """List the admin keys and the keys of every active project, without their values."""
    from service.cli.client import connect
    from service.cli.tables import print_rows, time_text

    with connect(base_url, api_key, organization) as client:
        keys = list(_keys(client, project))
    print_rows(
        ("id", "role", "project", "key", "last used", "expires", "name"),
        [
            (
                key.id,
                (key.model_extra or {}).get("role", "admin"),
                owner or "",
                key.redacted_value,
                time_text(key.last_used_at),
                time_text(key.expires_at),
                key.name or "",
            )
            for owner, key in keys
        ],
    )


@app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="key_…")],
    project: Annotated[str | None, typer.Option(metavar="ID", help="Whose it is; looked up when left out.")] = None,
    organization: Organization = "",
    base_url: BaseUrl = DEFAULT_BASE_URL,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """Revoke a key: from its next request on it opens nothing."""
    from service.cli.client import connect

    with connect(base_url, api_key, organization) as client:
        owners = [owner for owner, key in _keys(client, project) if key.id == key_id]
        if not owners:
            typer.echo(f"fettle: No such API key: {key_id}. `fettle keys list` has those that there are.", err=True)
            raise typer.Exit(1)
        if owners[0] is None:
            client.admin.organization.admin_api_keys.delete(key_id)
        else:
            client.admin.organization.projects.api_keys.delete(key_id, project_id=owners[0])
    print("revoked")


def _create_project_key(client: "OpenAI", project_id: str, body: dict[str, Any]) -> tuple[str, str]:
    """Its id and the key; OpenAI's client has no call for it."""
    from urllib.parse import quote

    path = f"/organization/projects/{quote(project_id, safe='')}/api_keys"
    created: Any = client.post(path, cast_to=object, body=body)
    return created["id"], created["value"]


def _keys(client: "OpenAI", project_id: str | None) -> "Iterator[tuple[str | None, AdminAPIKey | ProjectAPIKey]]":
    """Each with the project that it is of; None: an admin key."""
    organization = client.admin.organization
    if project_id is None:
        yield from ((None, key) for key in organization.admin_api_keys.list(limit=100))
        projects = [project.id for project in organization.projects.list(limit=100)]
    else:
        projects = [project_id]
    for project in projects:
        yield from ((project, key) for key in organization.projects.api_keys.list(project, limit=100))
