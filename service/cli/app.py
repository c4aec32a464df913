"""The command `fettle`.

A command imports what it needs when it runs: the service, the OpenAI client and the rest take a second to import, and
`fettle --help` needs none of them.
"""

import typer

from service.cli import estimate, files, jobs, keys, migrate, models, projects, serve, storage
from service.cli.demo import command as demo

app = typer.Typer(
    name="fettle",
    help="A self-hosted fine-tuning service with OpenAI's own API.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they would show API keys
    rich_markup_mode="markdown",
)
app.command("serve")(serve.serve)
app.command("migrate")(migrate.migrate)
app.command("demo")(demo.demo)
app.command("openapi")(serve.openapi)
app.command("estimate")(estimate.estimate)
app.add_typer(jobs.app, name="jobs")
app.add_typer(files.app, name="files")
app.add_typer(models.app, name="models")
app.add_typer(projects.app, name="projects")
app.add_typer(storage.app, name="storage")
app.add_typer(keys.app, name="keys")


def main() -> None:
    app()
