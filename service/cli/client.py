"""The stock OpenAI client on our service, with its failures told in a line instead of a trace."""

from collections.abc import Iterator
from contextlib import contextmanager

import openai
import typer


@contextmanager
def connect(base_url: str, api_key: str, organization: str = "") -> Iterator[openai.OpenAI]:
    """A client for the block; what it raises in there ends the command with exit code 1 and one readable line."""
    try:
        # all four are named, or the client would take them from OPENAI_* variables, which may be of another service
        with openai.OpenAI(
            base_url=base_url, api_key=api_key, admin_api_key=api_key, organization=organization, project=""
        ) as client:
            yield client
    except openai.OpenAIError as error:
        typer.echo(f"fettle: {explain(error, base_url)}", err=True)
        raise typer.Exit(1) from error


def explain(error: openai.OpenAIError, base_url: str) -> str:
    match error:
        case openai.APITimeoutError():
            return f"{base_url} did not answer in time."
        case openai.APIConnectionError():
            reason = error.__cause__ or error
            return (
                f"No service answers at {base_url} ({reason}). Start one with `fettle serve`, or name it: --base-url."
            )
        case openai.AuthenticationError():
            return f"{_message(error)} Give the key with --api-key or FETTLE_API_KEY."
        case openai.APIStatusError():
            return f"{_message(error)} (HTTP {error.status_code})"
        case _:
            return str(error)


def _message(error: openai.APIStatusError) -> str:
    """The `message` of the error body alone; the client's own text wraps it in a dictionary."""
    body = error.body
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return str(body["message"])
    return error.message
