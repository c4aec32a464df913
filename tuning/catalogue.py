"""The catalogue of base models: what can be tuned and served, and how. Read from `models.yaml`, checked at start.

Only entries can be tuned or served: no path and no repository id is ever taken from a request. A `source` or
`chat_template` that starts with `./` is a path relative to the YAML file's own folder.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from tuning.resources import TrainingResources

ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$")]
"""Without ':' and '/', so that it can stand in `ft:{base}:{org}:{suffix}:{id}` and in an object key."""

DEFAULT_CATALOGUE = Path(__file__).resolve().parent.parent / "models.yaml"


class CatalogueError(Exception):
    """The catalogue, or a model that it names, cannot be used; the message says which entry and why."""


class LoraDefaults(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(16, ge=1, le=512)
    lora_alpha: int = Field(32, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class CatalogueEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ModelName
    source: str
    """A folder (`./…` or absolute) or a Hugging Face id."""
    revision: str | None = None
    """A Hugging Face commit; pin it, a branch may move."""
    context_length: int = Field(ge=64)
    """Tokens: the longest row that is trained on, and vLLM's `--max-model-len`."""
    chat_template: str | None = None
    """A Jinja file that replaces the model's own template."""
    stop_tokens: tuple[str, ...] = Field(min_length=1)
    """The tokens that end an assistant turn; they are trained on."""
    tool_parser: str | None = None
    """vLLM's `--tool-call-parser`; None: the model is served without tools."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    learning_rate: float = Field(gt=0)
    """The rate that OpenAI's `learning_rate_multiplier` multiplies."""
    batch_size: int = Field(8, ge=1, le=256)
    """What `auto` takes, when the file has rows enough."""
    lora: LoraDefaults = LoraDefaults()
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 64
    """vLLM's `--max-lora-rank` for this base."""
    training: TrainingResources = TrainingResources()
    """What a job of this base gets when it asks for nothing else. Only a cluster heeds it: on one machine a trainer has
    what there is."""
    price_per_million_tokens: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Of trained tokens, for estimates; None: estimates tell no price."""
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$")
    """Of the price: a code of ISO 4217."""
    created: int = 1735689600
    """Unix seconds, as `/v1/models` tells them."""
    owned_by: str = "fettle"

    @model_validator(mode="after")
    def _check_rank(self) -> Self:
        if self.lora.r > self.max_lora_rank:
            raise ValueError(
                f"model {self.name}: lora.r is {self.lora.r}, and vLLM would serve adapters up to max_lora_rank, which "
                f"is {self.max_lora_rank}; lower the one or raise the other"
            )
        return self

    @property
    def is_local(self) -> bool:
        return Path(self.source).is_absolute()

    @property
    def is_fetched(self) -> bool:
        """`config.json` lies on this machine."""
        return self.is_local or isinstance(
            try_to_load_from_cache(self.source, "config.json", revision=self.revision), str
        )

    @cached_property
    def architecture(self) -> str:
        """The first of `config.json`; empty where it names none. Raises CatalogueError."""
        try:
            config: Any = json.loads(_read(self._model_file("config.json"), self.name))
            return str(next(iter(config["architectures"] or ()), ""))
        except (ValueError, TypeError, KeyError) as error:
            raise CatalogueError(f"model {self.name}: its config.json names no architecture: {error!r}") from error

    @cached_property
    def tokenizer_path(self) -> Path:
        """Of `tokenizer.json`. Raises CatalogueError."""
        return self._model_file("tokenizer.json")

    @cached_property
    def tokenizer_config_path(self) -> Path:
        """Of `tokenizer_config.json`, in the same folder. Raises CatalogueError."""
        return self._model_file("tokenizer_config.json")

    @cached_property
    def template(self) -> str:
        """The chat template's text: the entry's own file, else the model's. Raises CatalogueError."""
        if self.chat_template is not None:
            return _read(Path(self.chat_template), self.name)
        try:
            return _read(self._model_file("chat_template.jinja"), self.name)
        except CatalogueError:
            config = json.loads(_read(self._model_file("tokenizer_config.json"), self.name))
        template = config.get("chat_template")
        if not isinstance(template, str):
            raise CatalogueError(f"model {self.name} has no chat template; name one with `chat_template: ./file.jinja`")
        return template

    @cached_property
    def template_sha256(self) -> str:
        return hashlib.sha256(self.template.encode()).hexdigest()

    def _model_file(self, filename: str) -> Path:
        if self.is_local:
            path = Path(self.source) / filename
            if path.is_file():
                return path
            raise CatalogueError(f"model {self.name}: {path} does not exist")
        try:
            return Path(hf_hub_download(self.source, filename, revision=self.revision))
        except Exception as error:  # the hub's client raises a dozen unrelated types: HTTP, OS, validation
            raise CatalogueError(f"model {self.name}: cannot fetch {filename} of {self.source}: {error}") from error


class Catalogue(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[CatalogueEntry, ...]

    def get(self, name: str) -> CatalogueEntry | None:
        return next((entry for entry in self.models if entry.name == name), None)

    @classmethod
    def load(cls, path: Path) -> "Catalogue":
        """Raises CatalogueError with the entry and the field when the file cannot be used."""
        try:
            content = yaml.safe_load(_read(path, str(path)))
            for entry in content["models"]:
                for field in ("source", "chat_template"):
                    if str(entry.get(field, "")).startswith("./"):
                        entry[field] = str((path.resolve().parent / entry[field]).resolve())
            catalogue = cls.model_validate(content)
        except (yaml.YAMLError, TypeError, KeyError, AttributeError, ValueError) as error:
            raise CatalogueError(f"{path} is not a catalogue of models: {error}") from error
        names = [entry.name for entry in catalogue.models]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise CatalogueError(f"{path} names {', '.join(sorted(duplicates))} more than once")
        return catalogue


def _read(path: Path, owner: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogueError(f"{owner}: {error}") from error
