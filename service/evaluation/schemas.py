"""What is asked for of an evaluation, and what it found."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from tuning.graders.schemas import Grader

DEFAULT_ROWS = 32
MAX_ROWS = 1000


class EvaluationRequest(BaseModel):
    """How the tuned model is compared with the model that it was tuned from, on rows of the validation file."""

    model_config = ConfigDict(extra="forbid")

    rows: Annotated[int, Field(ge=0, le=MAX_ROWS, strict=True)] = Field(
        DEFAULT_ROWS, description="Drawn from the validation file by the job's seed; 0: no evaluation."
    )
    grader: Grader | None = Field(
        None,
        description="Grades every answer of both models. `item` is the row, with the wanted answer as "
        "`item.expected`. Reinforcement jobs take their own grader when none is named.",
    )


class Score(BaseModel):
    """One measure, of the model that training began with and of the tuned one."""

    before: float
    after: float


class EvaluationSample(BaseModel):
    row: int = Field(description="The line in the validation file, from 1.")
    question: str = Field(description="The last message before the answer.")
    expected: str | None
    before: str
    after: str


class Evaluation(BaseModel):
    """Of a job that succeeded. Both models answered the same rows greedily, through this server's own gateway."""

    status: Literal["completed", "failed"]
    reason: str | None = Field(None, description="Why it failed, or why some rows were left out.")
    baseline: str = Field(description="The model that training began with.")
    rows: int = Field(description="Rows that both models answered.")
    exact_match: Score | None = Field(
        None, description="The share of answers that are the wanted one, tool calls by their names and arguments."
    )
    token_accuracy: Score | None = Field(
        None, description="The share of the wanted answers' tokens that the model would have chosen itself."
    )
    loss: Score | None = Field(None, description="The mean of -log p over the wanted answers' tokens.")
    grader: Score | None = Field(None, description="The grader's mean reward.")
    grader_failures: int = Field(0, description="Answers that it could not grade; their reward counts as 0.")
    samples: list[EvaluationSample] = []

    def summary(self) -> str:
        """One line for people."""
        if self.status == "failed":
            return f"The tuned model could not be compared with {self.baseline}: {self.reason}"
        parts = [
            f"{name.replace('_', ' ')} {score.before:.3g} → {score.after:.3g}"
            for name in ("exact_match", "token_accuracy", "loss", "grader")
            if (score := getattr(self, name)) is not None
        ]
        compared = f"On {self.rows} held-out rows, from {self.baseline} to the tuned model: {', '.join(parts)}"
        return f"{compared}. {self.reason}" if self.reason else compared

    def to_column(self) -> dict[str, JsonValue]:
        return self.model_dump(mode="json")
