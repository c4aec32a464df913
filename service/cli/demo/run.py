"""The whole demo on one screen: a service, two files, a job, and the same questions before and after it."""

import fcntl
import importlib.util
import itertools
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import openai

from service.cli.client import explain
from service.cli.demo.child_service import ChildService, ServiceDidNotStart, stop_leftovers
from service.cli.demo.own_model import add_to_catalogue
from service.cli.demo.questions import Answer, Question, ask_all, read_questions, share_of_exact_matches
from service.cli.demo.report import Report, print_answers, print_summary
from service.cli.jobs import ending
from service.cli.stages import Stages
from service.cli.uploading import upload_file
from service.cli.watching import watch_job
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueError

FOLDER = Path(".demo")
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "tool_calls"
DEFAULT_MODEL = "fettle-tiny"
SEED = 20260
QUICK_TRAINING_ROWS = 1500
QUICK_QUESTIONS = 50
MAX_QUESTIONS = 200
"""Of a user's own file; more tell little more and take minutes."""


class DemoError(Exception):
    """The demo cannot go on; the message says why and what would help."""


@dataclass(frozen=True)
class Plan:
    model: str
    train: Path
    validation: Path | None
    held_out: Path
    is_example: bool
    """The shipped model on the shipped data: what it must reach is known."""
    quick: bool
    hyperparameters: dict[str, Any]

    @classmethod
    def from_options(
        cls, model: str | None, train: Path | None, validation: Path | None, held_out: Path | None, quick: bool
    ) -> Self:
        """Raises DemoError."""
        if train is None and (validation or held_out):
            raise DemoError("VALIDATION= and HELD_OUT= belong to a file of your own: name it with TRAIN=")
        if train is None:
            train, validation, held_out = (EXAMPLE / f"{name}.jsonl" for name in ("train", "validation", "held_out"))
            # small batches make more steps in the same time: one pass in eights learnt twice what one in sixteens did
            hyperparameters: dict[str, Any] = {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 1.5}
        else:
            hyperparameters = {}
        questions = held_out or validation
        if questions is None:
            raise DemoError("there is nothing to ask: name rows that are not trained on with VALIDATION= or HELD_OUT=")
        is_example = train.parent == EXAMPLE and model in (None, DEFAULT_MODEL)
        return cls(model or DEFAULT_MODEL, train, validation, questions, is_example, quick, hyperparameters)


def run(plan: Plan, report_path: Path) -> bool:
    """Returns whether the job succeeded and, for the shipped example, learnt. Raises DemoError."""
    if importlib.util.find_spec("vllm") is None:
        raise DemoError("vLLM is not installed here, so no model can be asked. `fettle serve` trains without it.")
    started = time.monotonic()
    with _fresh_folder() as folder, Stages() as stages:
        questions = _read_questions(plan)
        model, models_file = _base_model(plan.model, folder)
        report = Report(model, held_out_rows=len(questions), held_out_are_validation_rows=_asks_validation(plan))
        try:
            start = stages.start("Starting the service")
            with ChildService(folder / "data", models_file) as service, service.client() as client:
                report.seconds["start_service"] = start.finish()
                before, after = _tune_and_ask(plan, client, questions, report, stages, folder)
        except openai.OpenAIError as error:
            raise DemoError(f"{explain(error, 'the service')} Logs are in {folder}.") from error
        except ServiceDidNotStart as error:
            raise DemoError(str(error)) from error
        report.seconds["total"] = time.monotonic() - started
    report.write(report_path)
    print_answers(questions, before, after)
    print_summary(report)
    print(f"{report.fine_tuned_model} is in {FOLDER / 'data'}, logs beside it; the figures are in {report_path}.")
    if plan.is_example and (shortfall := report.shortfall()):
        print(shortfall)
        return False
    return True


def _tune_and_ask(
    plan: Plan, client: openai.OpenAI, questions: list[Question], report: Report, stages: Stages, folder: Path
) -> tuple[list[Answer], list[Answer]]:
    """The answers before and after; fills the report as it goes."""
    serving = stages.start(f"Serving {report.model}", None)
    _first_token(client, report.model)
    report.seconds["serving"] = serving.finish()
    before = _ask("before", client, report.model, questions, report, stages)

    train = _shortened(plan.train, folder / "train.jsonl") if plan.quick else plan.train
    files = [train, plan.validation] if plan.validation else [train]
    started = time.monotonic()
    uploaded = [
        upload_file(client, path, stages.start(f"Uploading {path.name}", path.stat().st_size)) for path in files
    ]
    report.seconds["upload"] = time.monotonic() - started

    method: Any = {"type": "supervised", "supervised": {"hyperparameters": plan.hyperparameters}}
    job = client.fine_tuning.jobs.create(
        model=report.model,
        training_file=uploaded[0].id,
        validation_file=uploaded[1].id if plan.validation else None,
        suffix="demo",
        seed=SEED,
        method=method,
    )
    report.job_id = job.id
    watched = watch_job(client, job.id, stages, tell_events=False)
    if watched.job.status != "succeeded" or watched.job.fine_tuned_model is None:
        raise DemoError(f"{ending(watched.job)}. Logs are in {folder}.")
    report.fine_tuned_model = watched.job.fine_tuned_model
    report.seconds["validation"] = watched.validated or 0.0
    report.seconds["training_start"] = watched.first_step or watched.finished  # from create to the first step
    report.seconds["training"] = watched.finished - report.seconds["training_start"]

    serving = stages.start("Serving the new model", None)
    _first_token(client, report.fine_tuned_model)
    report.time_to_first_token = serving.finish()
    after = _ask("after", client, report.fine_tuned_model, questions, report, stages)
    report.exact_match_before = share_of_exact_matches(questions, before)
    report.exact_match_after = share_of_exact_matches(questions, after)
    return before, after


def _ask(
    when: str, client: openai.OpenAI, model: str, questions: list[Question], report: Report, stages: Stages
) -> list[Answer]:
    stage = stages.start(f"Asking {when}", len(questions))
    answers = ask_all(client, model, questions, stage.advance_to)
    report.seconds[f"questions_{when}"] = stage.finish()
    return answers


def _first_token(client: openai.OpenAI, model: str) -> None:
    """Returns when the model has said something; vLLM may have to start first."""
    with client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello."}], stream=True, max_tokens=1
    ) as chunks:
        next(iter(chunks))


def _read_questions(plan: Plan) -> list[Question]:
    limit = QUICK_QUESTIONS if plan.quick else None if plan.is_example else MAX_QUESTIONS
    try:
        questions = read_questions(plan.held_out, limit)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DemoError(f"{plan.held_out} cannot be asked: {error}") from error
    if not questions:
        raise DemoError(f"{plan.held_out} holds no row to ask")
    return questions


def _asks_validation(plan: Plan) -> bool:
    return plan.held_out == plan.validation


def _base_model(model: str, folder: Path) -> tuple[str, Path | None]:
    """Its name, and the catalogue that has it where the shipped one does not."""
    if Catalogue.load(DEFAULT_CATALOGUE).get(model):
        return model, None
    models_file = folder / "models.yaml"
    try:
        return add_to_catalogue(model, models_file), models_file
    except CatalogueError as error:
        raise DemoError(str(error)) from error


def _shortened(path: Path, target: Path) -> Path:
    with path.open("rb") as rows, target.open("wb") as file:
        file.writelines(itertools.islice(rows, QUICK_TRAINING_ROWS))
    return target


@contextmanager
def _fresh_folder() -> Iterator[Path]:
    """`.demo/`, emptied; also of what a killed demo left running. It is kept afterwards, for its logs and its model."""
    folder = FOLDER.resolve()
    folder.mkdir(exist_ok=True)
    with (folder / "running").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"another demo runs in {folder}; wait for it or stop it") from None
        stop_leftovers(folder)
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "running":
                path.unlink()
        yield folder
