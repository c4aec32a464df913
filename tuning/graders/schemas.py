"""Grader configurations exactly as OpenAI's clients send them, told apart by `type`.

What can be known to be wrong before anything is graded is refused here: a template that names nothing, a formula with a
variable too many, a range without width.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from tuning.graders.formula import FormulaError, parse_formula
from tuning.graders.templates import TemplateError, check_template

MAX_TEXT_CHARACTERS = 100_000
MAX_SOURCE_BYTES = 256_000
"""OpenAI's limit of a python grader."""
MAX_GRADERS = 20
MAX_MESSAGES = 100
MAX_PARTS = 100
MAX_LABELS = 100


def _refusal(reason: str) -> PydanticCustomError:
    return PydanticCustomError("grader", "{reason}", {"reason": reason})


def _check_template(template: str) -> str:
    try:
        return check_template(template)
    except TemplateError as error:
        raise _refusal(str(error)) from error


Template = Annotated[str, Field(max_length=MAX_TEXT_CHARACTERS), AfterValidator(_check_template)]
Name = Annotated[str, Field(min_length=1, max_length=256, description="The name of the grader; default: its `type`.")]
PassThreshold = Annotated[
    float | None,
    Field(
        strict=True,  # or `true` would be 1
        allow_inf_nan=False,
        description="The reward from which an answer passes. `metadata.scores.passed` says whether this one did.",
    ),
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Named(_Strict):
    @model_validator(mode="after")
    def _show_name(self) -> Self:
        self.model_fields_set.add("name")  # `validate` answers with what was sent, and OpenAI's types want a name
        return self


class StringCheckGrader(_Named):
    """Compares two texts: 1 when they do as `operation` says, 0 when not."""

    type: Literal["string_check"]
    name: Name = "string_check"
    input: Template = Field(description="The text to check; may hold templates.", examples=["{{sample.output_text}}"])
    reference: Template = Field(
        description="What it is compared with; may hold templates.", examples=["{{item.label}}"]
    )
    operation: Literal["eq", "ne", "like", "ilike"] = Field(
        description="`eq`: equal; `ne`: not equal; `like`: `input` contains `reference`; `ilike`: so in any case."
    )


class TextSimilarityGrader(_Named):
    """Measures how alike two texts are, from 0 to 1."""

    type: Literal["text_similarity"]
    name: Name = "text_similarity"
    input: Template = Field(
        description="The text being graded; may hold templates.", examples=["{{sample.output_text}}"]
    )
    reference: Template = Field(description="The text being graded against.", examples=["{{item.answer}}"])
    evaluation_metric: Literal[
        "cosine",
        "fuzzy_match",
        "bleu",
        "gleu",
        "meteor",
        "rouge_1",
        "rouge_2",
        "rouge_3",
        "rouge_4",
        "rouge_5",
        "rouge_l",
    ] = Field(
        description="`fuzzy_match`: rapidfuzz's WRatio; `bleu`: sacreBLEU; `gleu`, `meteor`: NLTK, METEOR without "
        "synonyms; `rouge_N`, `rouge_l`: the F-measure of rouge-score. `cosine` is refused: it compares embeddings, "
        "which no model here makes; OpenAI has it for evals only."
    )
    pass_threshold: PassThreshold = None

    @field_validator("evaluation_metric")
    @classmethod
    def _refuse_cosine(cls, metric: str) -> str:
        if metric == "cosine":
            raise _refusal(
                "'cosine' compares embeddings, and this server serves no embedding model; use another metric, "
                "for example 'fuzzy_match', 'meteor' or 'rouge_l'"
            )
        return metric


class PythonGrader(_Named):
    """Runs `grade(sample, item)` of your own in a sandbox; what it returns is the reward."""

    type: Literal["python"]
    name: Name = "python"
    source: str = Field(
        min_length=1,
        description="Python with a function `grade` that takes the sample and the item and returns a float.",
        examples=["def grade(sample, item):\n    return float(sample['output_text'] == item['label'])"],
    )
    image_tag: Literal["2025-05-08"] | None = Field(
        None, description="The sandbox has the standard library and the packages that `docs/graders.md` lists."
    )

    @field_validator("source")
    @classmethod
    def _check_size(cls, source: str) -> str:
        if len(source.encode(errors="replace")) > MAX_SOURCE_BYTES:
            raise _refusal(f"a python grader has at most {MAX_SOURCE_BYTES} bytes")
        return source


class InputText(_Strict):
    type: Literal["input_text"]
    text: Template


class OutputText(_Strict):
    type: Literal["output_text"]
    text: Template


class InputImage(_Strict):
    type: Literal["input_image"]
    image_url: Template
    detail: Literal["low", "high", "auto"] | None = None


class AudioData(_Strict):
    data: str = Field(description="Base64.")
    format: Literal["mp3", "wav"]


class InputAudio(_Strict):
    type: Literal["input_audio"]
    input_audio: AudioData


InputPart = Annotated[InputText | OutputText | InputImage | InputAudio, Field(discriminator="type")]


def _shape(content: Any) -> str:
    return "text" if isinstance(content, str) else "parts" if isinstance(content, list) else "part"


_Text = Annotated[Template, Tag("text")]
_Part = Annotated[InputPart, Tag("part")]
_Parts = Annotated[
    list[Annotated[_Text | _Part, Discriminator(_shape)]], Field(min_length=1, max_length=MAX_PARTS), Tag("parts")
]


class InputMessage(_Strict):
    """A message to the model that grades; its texts may hold templates."""

    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[_Text | _Part | _Parts, Discriminator(_shape)]
    type: Literal["message"] | None = None


Messages = Annotated[list[InputMessage], Field(min_length=1, max_length=MAX_MESSAGES)]


class SamplingParams(_Strict):
    max_completions_tokens: int | None = Field(None, ge=1, description="The longest answer of the model that grades.")
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    seed: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)


class ScoreModelGrader(_Named):
    """Asks a model for a number; one outside `range` counts as the nearest bound."""

    type: Literal["score_model"]
    name: Name = "score_model"
    model: str = Field(min_length=1, max_length=256, description="A model of this server, or of the grader endpoint.")
    input: Messages
    range: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)] | None = (
        Field(None, description="The lowest and the highest score; default `[0, 1]`.", examples=[[0, 1]])
    )
    sampling_params: SamplingParams | None = None
    pass_threshold: PassThreshold = None

    @field_validator("range")
    @classmethod
    def _check_range(cls, bounds: list[float] | None) -> list[float] | None:
        if bounds is not None and (bounds[0] >= bounds[1] or not math.isfinite(bounds[1] - bounds[0])):
            raise _refusal("the first number must be smaller than the second")
        return bounds


class LabelModelGrader(_Named):
    """Asks a model for one of `labels`: 1 when it is one of `passing_labels`, 0 when not."""

    type: Literal["label_model"]
    name: Name = "label_model"
    model: str = Field(min_length=1, max_length=256, description="A model of this server, or of the grader endpoint.")
    input: Messages
    labels: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(min_length=1, max_length=MAX_LABELS)
    ]
    passing_labels: Annotated[list[str], Field(max_length=MAX_LABELS)]
    sampling_params: SamplingParams | None = None

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: list[str]) -> list[str]:
        if len(set(labels)) != len(labels):
            raise _refusal("a label stands in it twice")
        return labels

    @field_validator("passing_labels")
    @classmethod
    def _check_passing_labels(cls, passing: list[str], info: ValidationInfo) -> list[str]:
        strays = [label for label in passing if label not in info.data.get("labels", passing)]
        if strays:
            raise _refusal(f"{strays[0][:100]!r} is not one of 'labels'")
        return passing


SubGrader = Annotated[
    StringCheckGrader | TextSimilarityGrader | PythonGrader | ScoreModelGrader | LabelModelGrader,
    Field(discriminator="type"),
]


def _by_name(graders: Any) -> Any:
    """OpenAI's clients type `graders` as one grader: then its name is the formula's variable."""
    if isinstance(graders, Mapping) and isinstance(graders.get("type"), str):
        return {graders.get("name", graders["type"]): graders}
    return graders


class MultiGrader(_Named):
    """Computes a reward from the rewards of other graders."""

    type: Literal["multi"]
    name: Name = "multi"
    graders: Annotated[dict[str, SubGrader], Field(min_length=1, max_length=MAX_GRADERS), BeforeValidator(_by_name)] = (
        Field(description="Graders by the names that the formula calls them. No multi grader is among them.")
    )
    calculate_output: str = Field(
        max_length=4000,
        description="A formula of the graders' names and numbers with `+ - * / ^`, parentheses, and min, max, abs, "
        "floor, ceil, exp, sqrt, log.",
        examples=["0.7 * answer + 0.3 * min(style, 1)"],
    )

    @field_validator("calculate_output")
    @classmethod
    def _check_formula(cls, formula: str, info: ValidationInfo) -> str:
        if "graders" in info.data:
            try:
                parse_formula(formula, info.data["graders"].keys())
            except FormulaError as error:
                raise _refusal(str(error)) from error
        return formula


Grader = Annotated[
    StringCheckGrader | TextSimilarityGrader | PythonGrader | ScoreModelGrader | LabelModelGrader | MultiGrader,
    Field(discriminator="type"),
]
