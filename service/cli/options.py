"""Options that several commands share."""

from typing import Annotated

import typer

BaseUrl = Annotated[
    str,
    typer.Option(
        envvar="FETTLE_BASE_URL",
        help="Where the service answers. OPENAI_BASE_URL is not read: it may name another service.",
    ),
]
ApiKey = Annotated[
    str,
    typer.Option(
        envvar="FETTLE_API_KEY",
        help="A key of a project, an admin key, or one of the service's FETTLE_API_KEYS. OPENAI_API_KEY is not read.",
        show_default=False,
    ),
]
Organization = Annotated[
    str, typer.Option(metavar="ID", help="For operators: another organization than the default one.")
]
Limit = Annotated[int, typer.Option(min=1, max=100, help="How many, newest first.")]

DEFAULT_BASE_URL = "http://127.0.0.1:8000/v1"
NO_API_KEY = "none"
"""What is sent to a service without keys: the client insists on some key."""
