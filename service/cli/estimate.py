"""`fettle estimate`: what a job would be, before it is made."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import NO_API_KEY, ApiKey

if TYPE_CHECKING:
    from service.fine_tuning.estimate_schemas import JobEstimate

UPLOAD_KEPT_SECONDS = 3600
"""If this command is killed before it has deleted what it uploaded: the shortest that the API takes."""

JsonlFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JSONL file to train on.")]


def estimate(
    training_file: JsonlFile,
    model: Annotated[str, typer.Option(help="A base model; with a service also a tuned one.")],
    validation_file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Measured on, never trained on.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the file.  [default: auto]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step.  [default: auto]")] = None,
    fields: Annotated[
        str, typer.Option(metavar="JSON", help='More of the job\'s request: \'{"x_training": {"r": 8}}\'.')
    ] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer, with the receipts of the files.")] = False,
    models: Annotated[
        Path | None,
        typer.Option(envvar="FETTLE_MODELS_FILE", help="Without a service: the catalogue.  [default: models.yaml]"),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            envvar="FETTLE_BASE_URL",
            help="A service to ask, which knows its own speed and queue. [default: none, this machine works it out]",
        ),
    ] = None,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """Tell tokens, steps, memory, time and price of a job before it is made, and whether it would be admitted.

    Nothing is kept: what is uploaded to a service is deleted again. Exit code 0: it would be admitted; 1: it would not.
    """
    request = {"model": model, **_fields(fields, epochs, batch_size)}
    if base_url is None:
        found = _estimate_here(request, training_file, validation_file, models)
    else:
        found = _ask_service(request, training_file, validation_file, base_url, api_key)
    print(found.model_dump_json(indent=1) if as_json else _text(found))
    if not found.admission.would_be_admitted:
        raise typer.Exit(1)


def _fields(given: str, epochs: int | None, batch_size: int | None) -> dict[str, Any]:
    try:
        fields = json.loads(given)
    except ValueError as error:
        raise typer.BadParameter(f"it is no JSON: {error}", param_hint="--fields") from error
    if not isinstance(fields, dict) or fields.keys() & {"model", "training_file", "validation_file"}:
        raise typer.BadParameter("a JSON object without model and files, which have options", param_hint="--fields")
    numbers = {"n_epochs": epochs, "batch_size": batch_size}
    if numbers := {name: number for name, number in numbers.items() if number is not None}:
        fields["hyperparameters"] = fields.get("hyperparameters", {}) | numbers
    return fields


def _ask_service(
    request: dict[str, Any], training_file: Path, validation_file: Path | None, base_url: str, api_key: str
) -> "JobEstimate":
    from service.cli.client import connect
    from service.cli.stages import Stages
    from service.cli.uploading import upload_file
    from service.fine_tuning.estimate_schemas import JobEstimate

    uploaded: list[str] = []
    with connect(base_url, api_key) as client:
        try:
            with Stages() as stages:
                for field, path in (("training_file", training_file), ("validation_file", validation_file)):
                    if path is not None:
                        stage = stages.start(f"Uploading {path.name}", path.stat().st_size)
                        file = upload_file(client, path, stage, kept_seconds=UPLOAD_KEPT_SECONDS)
                        uploaded.append(file.id)
                        request[field] = file.id
            answer = client.post("/fine_tuning/jobs/estimate", body=request, cast_to=object)
        finally:
            for file_id in uploaded:
                client.files.delete(file_id)
    return JobEstimate.model_validate(answer)


def _estimate_here(
    request: dict[str, Any], training_file: Path, validation_file: Path | None, models: Path | None
) -> "JobEstimate":
    from pydantic import ValidationError

    from service.cli.local_estimate import CannotEstimate, estimate_here

    try:
        return estimate_here(request, training_file, validation_file, models)
    except (CannotEstimate, ValidationError) as error:
        typer.echo(f"fettle: {error}", err=True)
        raise typer.Exit(2) from error


def _text(found: "JobEstimate") -> str:
    lines = [("model", f"{found.model}, {found.method}")]
    if found.rows is not None and found.tokens is not None and found.hyperparameters is not None:
        epochs = found.hyperparameters["n_epochs"]
        lines += [
            ("rows", f"{found.rows:,}, of which {found.trained_rows:,} are trained on"),
            ("tokens", f"{found.tokens:,}, of which {found.supervised_tokens:,} are learned to say"),
            ("training", f"{found.trained_tokens:,} tokens in {epochs} epochs and {found.steps:,} steps"),
        ]
    lines += [("memory", _memory(found)), ("time", _time(found)), ("price", _price(found))]
    receipts = [receipt for receipt in (found.training_receipt, found.validation_receipt) if receipt is not None]
    lines += [("warning", finding.message) for receipt in receipts for finding in receipt.findings]
    lines += [("warning", warning.message) for warning in found.admission.warnings]
    lines += [("refused", reason.message) for reason in found.admission.reasons]
    if not found.admission.reasons:
        ahead = found.admission.jobs_ahead
        lines.append(("admitted", "yes" if not ahead else f"yes, after {ahead:,} that wait"))
    return "\n".join(f"{name:<10}{text}" for name, text in lines)


def _memory(found: "JobEstimate") -> str:
    memory = found.memory
    if memory.bytes is None:
        return f"unknown: {memory.because}"
    error = "" if memory.error_percent is None else f" ± {memory.error_percent:g} %"
    there = "" if memory.available_bytes is None else f", of {memory.available_bytes / 1e9:.1f} GB that are free"
    return f"{memory.bytes / 1e9:.2f} GB{error} on the {memory.device}{there}"


def _time(found: "JobEstimate") -> str:
    seconds = found.seconds
    if seconds.value is None:
        return f"unknown: {seconds.because}"
    minutes, rest = divmod(round(seconds.value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}, {seconds.because}"


def _price(found: "JobEstimate") -> str:
    price = found.price
    if price is None:
        return "unknown: the catalogue has no rate for this job"
    return f"{price.amount:.2f} {price.currency}, at {price.per_million_tokens:g} for a million trained tokens"
