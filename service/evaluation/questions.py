"""The held-out rows as questions: drawn, parsed and rendered in a process of their own."""

from dataclasses import asdict, dataclass
from typing import Any

from service.settings import Settings
from service.worker_process import ask_worker
from tuning.catalogue import CatalogueEntry
from tuning.contract import MethodName


@dataclass(frozen=True)
class Question:
    row: int
    messages: list[dict[str, Any]]
    """As the API takes them."""
    tools: list[dict[str, Any]] | None
    expected: dict[str, Any] | None
    """The wanted answer, an assistant message of the API; None: nobody knows it."""
    expected_tokens: int
    input_ids: list[int]
    """Of the whole conversation, the wanted answer included; empty where there is none."""
    is_supervised: list[int]
    """1 for each token of the conversation that is to be predicted, else 0."""
    item: dict[str, Any]
    """The row as graders see it."""


@dataclass(frozen=True)
class HeldOut:
    """Where the rows lie, and how many are drawn."""

    uri: str
    method: MethodName
    max_length: int
    rows: int
    """In the file."""
    count: int
    seed: int


async def draw_questions(held_out: HeldOut, entry: CatalogueEntry, settings: Settings) -> list[Question]:
    """The same ones every time, in the file's order. Raises WorkerDied."""
    question = {"held_out": asdict(held_out), "entry": entry.model_dump(mode="json"), "s3": settings.s3_access}
    answer = await ask_worker("service.evaluation.questions_worker", question)
    return [Question(**each) for each in answer]
