"""`fettle projects …`."""

from typing import Annotated

import typer

from service.cli.options import DEFAULT_BASE_URL, NO_API_KEY, ApiKey, BaseUrl, Organization

app = typer.Typer(help="Projects: who sees whose files, jobs and models.", no_args_is_help=True)


@app.command("create")
def create_project(
    name: Annotated[str, typer.Argument(help="For people.")],
    organization: Organization = "",
    base_url: BaseUrl = DEFAULT_BASE_URL,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """Make a project and print its id."""
    from service.cli.client import connect

    with connect(base_url, api_key, organization) as client:
        print(client.admin.organization.projects.create(name=name).id)


@app.command("list")
def list_projects(
    archived: Annotated[bool, typer.Option("--archived", help="Archived ones, too.")] = False,
    organization: Organization = "",
    base_url: BaseUrl = DEFAULT_BASE_URL,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """List all projects, newest first."""
    from service.cli.client import connect
    from service.cli.tables import print_rows, time_text

    with connect(base_url, api_key, organization) as client:
        projects = list(client.admin.organization.projects.list(include_archived=archived, limit=100))
    print_rows(
        ("id", "status", "created", "name"),
        [(project.id, project.status or "", time_text(project.created_at), project.name or "") for project in projects],
    )


@app.command("archive")
def archive_project(
    project_id: Annotated[str, typer.Argument(metavar="ID", help="proj_…")],
    organization: Organization = "",
    base_url: BaseUrl = DEFAULT_BASE_URL,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """Archive a project for good: its keys open nothing any more, its data stays."""
    from service.cli.client import connect

    with connect(base_url, api_key, organization) as client:
        print(client.admin.organization.projects.archive(project_id).status)
