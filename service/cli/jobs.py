"""`fettle jobs …`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.options import DEFAULT_BASE_URL, NO_API_KEY, ApiKey, BaseUrl, Limit

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types.fine_tuning import FineTuningJob

app = typer.Typer(help="Fine-tuning jobs.", no_args_is_help=True)

JobId = Annotated[str, typer.Argument(metavar="ID", help="ftjob-…")]


@app.command("create")
def create_job(
    training_file: Annotated[str, typer.Argument(help="The id of an uploaded file, or a JSONL file to upload.")],
    model: Annotated[str, typer.Option(help="A base model, as `fettle models list` has them.")],
    validation_file: Annotated[str | None, typer.Option(help="As the training file; measured on only.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Goes into the new model's name.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same model.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the file.  [default: auto]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows a step.  [default: auto]")] = None,
    learning_rate_multiplier: Annotated[float | None, typer.Option(help="Of the base model's own rate.")] = None,
    watch: Annotated[bool, typer.Option(help="Follow it to its end.")] = False,
    base_url: BaseUrl = DEFAULT_BASE_URL,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """Create a job and print its id."""
    from service.cli.client import connect

    hyperparameters = {
        "n_epochs": epochs,
        "batch_size": batch_size,
        "learning_rate_multiplier": learning_rate_multiplier,
    }
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": _given(hyperparameters)}}
    optional: dict[str, Any] = {"suffix": suffix, "seed": seed}
    with connect(base_url, api_key) as client:
        if validation_file:
            optional["validation_file"] = _file_id(client, validation_file)
        job = client.fine_tuning.jobs.create(
            model=model,
            training_file=_file_id(client, training_file),
            method=method,
            **_given(optional),
        )
        print(job.id, flush=True)
        if watch:
            _watch(client, job.id)


@app.command("watch")
def watch_job(job_id: JobId, base_url: BaseUrl = DEFAULT_BASE_URL, api_key: ApiKey = NO_API_KEY) -> None:
    """Follow a job to its end. Exit code 0: succeeded; 1: failed or cancelled."""
    from service.cli.client import connect

    with connect(base_url, api_key) as client:
        _watch(client, job_id)


@app.command("get")
def get_job(job_id: JobId, base_url: BaseUrl = DEFAULT_BASE_URL, api_key: ApiKey = NO_API_KEY) -> None:
    """Print a job as JSON."""
    from service.cli.client import connect

    with connect(base_url, api_key) as client:
        print(client.fine_tuning.jobs.retrieve(job_id).to_json())


@app.command("list")
def list_jobs(limit: Limit = 20, base_url: BaseUrl = DEFAULT_BASE_URL, api_key: ApiKey = NO_API_KEY) -> None:
    """List jobs, newest first."""
    from service.cli.client import connect
    from service.cli.tables import print_rows, time_text

    with connect(base_url, api_key) as client:
        jobs = client.fine_tuning.jobs.list(limit=limit).data
    print_rows(
        ("id", "status", "created", "model", "fine-tuned model"),
        [(job.id, job.status, time_text(job.created_at), job.model, job.fine_tuned_model or "") for job in jobs],
    )


@app.command("events")
def list_events(
    job_id: JobId, limit: Limit = 100, base_url: BaseUrl = DEFAULT_BASE_URL, api_key: ApiKey = NO_API_KEY
) -> None:
    """Print a job's latest events, oldest first."""
    from service.cli.client import connect
    from service.cli.tables import print_rows, time_text

    with connect(base_url, api_key) as client:
        events = client.fine_tuning.jobs.list_events(job_id, limit=limit).data
    print_rows(
        ("time", "level", "message"),
        [(time_text(event.created_at), event.level, event.message) for event in reversed(events)],
    )


@app.command("logs")
def print_logs(
    job_id: JobId,
    attempt: Annotated[int | None, typer.Option(min=1, help="Only of this attempt.  [default: all]")] = None,
    container: Annotated[str | None, typer.Option(help="Only of this container.  [default: all]")] = None,
    base_url: BaseUrl = DEFAULT_BASE_URL,
    api_key: ApiKey = NO_API_KEY,
) -> None:
    """Print what a job's processes printed, oldest attempt first; each under its name when there are several."""
    from service.cli.client import connect
    from service.cli.job_logs import choose_logs, list_logs, print_log

    with connect(base_url, api_key) as client:
        logs = list_logs(client, job_id)
        chosen = choose_logs(logs, attempt, container)
        for log in chosen:
            if len(chosen) > 1:
                print(f"==> {log.name} <==", flush=True)
            print_log(client, job_id, log)
    if not chosen:
        there_are = f"there are {', '.join(log.name for log in logs)}" if logs else "it has none yet"
        typer.echo(f"fettle: {job_id} has no such log; {there_are}.", err=True)
        raise typer.Exit(1)


@app.command("cancel")
def cancel_job(job_id: JobId, base_url: BaseUrl = DEFAULT_BASE_URL, api_key: ApiKey = NO_API_KEY) -> None:
    """Cancel a job that has not ended."""
    from service.cli.client import connect

    with connect(base_url, api_key) as client:
        print(client.fine_tuning.jobs.cancel(job_id).status)


@app.command("pause")
def pause_job(job_id: JobId, base_url: BaseUrl = DEFAULT_BASE_URL, api_key: ApiKey = NO_API_KEY) -> None:
    """Hold a job that has not ended. A running one leaves a checkpoint and goes on from there once resumed."""
    from service.cli.client import connect

    with connect(base_url, api_key) as client:
        client.fine_tuning.jobs.pause(job_id)
    print("paused")


@app.command("resume")
def resume_job(job_id: JobId, base_url: BaseUrl = DEFAULT_BASE_URL, api_key: ApiKey = NO_API_KEY) -> None:
    """Let a paused job go on."""
    from service.cli.client import connect

    with connect(base_url, api_key) as client:
        print(client.fine_tuning.jobs.resume(job_id).status)


def _watch(client: "OpenAI", job_id: str) -> None:
    from service.cli.stages import Stages
    from service.cli.watching import watch_job

    with Stages() as stages:
        job = watch_job(client, job_id, stages, tell_events=True).job
    print(ending(job))
    if job.status != "succeeded":
        raise typer.Exit(1)


def ending(job: "FineTuningJob") -> str:
    if job.status == "succeeded":
        return f"{job.id} succeeded: {job.fine_tuned_model} ({job.trained_tokens:,} tokens)"
    reason = f": {job.error.message} ({job.error.code})" if job.error else ""
    return f"{job.id} {job.status}{reason}"


def _file_id(client: "OpenAI", id_or_path: str) -> str:
    """Uploads what is a file here; everything else is taken for an id, for the service to judge."""
    from service.cli.stages import Stages
    from service.cli.uploading import upload_file

    path = Path(id_or_path)
    if not path.is_file():
        return id_or_path
    with Stages() as stages:
        return upload_file(client, path, stages.start(f"Uploading {path.name}", path.stat().st_size)).id


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
