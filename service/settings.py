"""All settings of the service, from `FETTLE_*` variables and the command line; the only reader of the environment."""

import difflib
import ipaddress
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tuning.catalogue import DEFAULT_CATALOGUE

MEGABYTE = 1_000_000
"""OpenAI counts file limits in decimal megabytes."""

ORGANIZATION_NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,63}$"
"""Without ':', so that it can stand in a tuned model's name."""

_OTHERS_VARIABLES = ("FETTLE_BASE_URL", "FETTLE_API_KEY", "FETTLE_WORK_DIR", "FETTLE_TORCH_INDEX_URL")
"""Of the client commands, the trainer and the installation."""
_OTHERS_PREFIX = "FETTLE_TEST_"


def _from_seconds(value: object) -> object:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value  # ISO 8601, or pydantic says what is wrong


Duration = Annotated[timedelta, BeforeValidator(_from_seconds)]
"""Seconds, or ISO 8601: `90`, `PT90S`, `PT1M30S`."""


def _wandb(name: str, default: str | None) -> Any:
    return Field(default, validation_alias=AliasChoices(f"FETTLE_WANDB_{name}", f"WANDB_{name}"))


class Settings(BaseSettings):
    """The defaults are for one machine: SQLite and a folder under `data_dir`, local processes, vLLM started by us."""

    model_config = SettingsConfigDict(env_prefix="FETTLE_", extra="ignore", frozen=True)

    # where it listens, and who may call
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Comma-separated: the operators' keys, which open everything. Without them only a loopback host may be served, and
    everybody on this machine is an operator until the first key is made through the admin API."""
    organization: str = Field("fettle", pattern=ORGANIZATION_NAME_PATTERN)
    """The default organization's name: the third part of `ft:{base}:{organization}:{suffix}:{id}`."""

    # where its state lies
    data_dir: Path = Path("fettle-data")
    database_url: str | None = None
    """SQLAlchemy's; default: SQLite in the data folder."""
    storage_uri: str | None = None
    """`file:///folder` or `s3://bucket/prefix`; default: a folder in the data folder."""
    s3_endpoint_url: str | None = None
    s3_region: str | None = None
    models_file: Path = DEFAULT_CATALOGUE

    # limits
    max_file_bytes: int = Field(512 * MEGABYTE, gt=0)

    # jobs
    max_running_jobs: int = Field(1, ge=1)
    max_attempts: int = Field(3, ge=1)
    """A trainer that crashes is started again until it has crashed this often."""
    cancel_grace: Duration = timedelta(seconds=10)
    """Between SIGTERM and SIGKILL for a cancelled job's processes. ISO 8601, as all times: `PT10S`."""
    pause_grace: Duration = timedelta(minutes=10)
    """The same for a paused job, which finishes its step and saves its state: without it, work is lost."""
    paused_status: Literal["queued", "paused"] = "queued"
    """What a paused job's status says. OpenAI's clients do not know `paused`: strict ones break on it."""
    poll_interval: Duration = timedelta(seconds=1)
    """How often a running job is looked at."""

    result_files_base64: bool = False
    """Result files are base64 text, for old scripts that always decode them; else they are plain CSV."""

    # batches
    batch_concurrency: int = Field(8, ge=1, le=1000)
    """Requests that all batches of this service may have under way at once, beside those of the moment."""

    # webhooks
    webhook_allow_private: bool = False
    """Webhooks may also go to this machine and private networks, and over plain http. Only where every caller may
    send requests there."""

    # integrations: W&B's own variables, also with FETTLE_ before them
    wandb_api_key: SecretStr | None = _wandb("API_KEY", None)
    wandb_mode: Literal["online", "offline", "disabled"] = _wandb("MODE", "online")
    """Offline: the metrics are kept in the object storage, for `wandb sync`."""
    wandb_base_url: str | None = _wandb("BASE_URL", None)
    """A W&B server of one's own."""

    # graders
    grader_base_url: str | None = Field(None, pattern=r"^https?://")
    """An OpenAI-compatible endpoint, such as `https://host/v1`: model graders ask it for models that are not ours."""
    grader_api_key: SecretStr | None = None
    grader_timeout: Duration = Field(timedelta(minutes=2), gt=timedelta(0))
    """For one run of a python grader, and for one answer of a model that grades."""
    grader_memory_mib: int = Field(2048, ge=256)
    """For one run of a python grader."""

    # serving
    serving: Literal["vllm", "off"] = "vllm"
    serving_wait: Duration = timedelta(seconds=120)
    """How long a request waits for vLLM to start before it is answered with 503."""
    vllm_kv_cache_gib: int = Field(1, ge=1)
    """On the CPU only: memory for the key-value cache of each base model."""
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _split_keys(cls, values: dict[str, object]) -> dict[str, object]:
        keys = values.get("api_keys")
        if isinstance(keys, str):
            values["api_keys"] = tuple(key.strip() for key in keys.split(",") if key.strip())
        return values

    @model_validator(mode="after")
    def _absolute_data_dir(self) -> Self:
        object.__setattr__(self, "data_dir", self.data_dir.expanduser().resolve())
        return self

    @property
    def resolved_database_url(self) -> str:
        return self.database_url or f"sqlite+aiosqlite:///{self.data_dir / 'fettle.db'}"

    @property
    def resolved_storage_uri(self) -> str:
        return self.storage_uri or (self.data_dir / "objects").as_uri()

    @property
    def executions_dir(self) -> Path:
        return self.data_dir / "executions"

    @property
    def serving_dir(self) -> Path:
        return self.data_dir / "serving"

    @property
    def can_use_wandb(self) -> bool:
        return self.wandb_mode == "offline" or (self.wandb_mode == "online" and self.wandb_api_key is not None)

    @property
    def wandb_environment(self) -> dict[str, str]:
        """Of a trainer."""
        key = self.wandb_api_key.get_secret_value() if self.wandb_api_key else None
        environment = {"WANDB_MODE": self.wandb_mode, "WANDB_API_KEY": key, "WANDB_BASE_URL": self.wandb_base_url}
        return {name: value for name, value in environment.items() if value}

    def refusal_to_serve(self) -> str | None:
        """Why these settings must not be served, or None."""
        if self.api_keys or is_loopback(self.host):
            return None
        return (
            f"Refusing to serve on {self.host} without API keys: anyone who reaches this port could read the data and "
            "start training. Set FETTLE_API_KEYS=key1,key2 or serve on 127.0.0.1."
        )


def unknown_variables() -> list[str]:
    """`FETTLE_*` variables that nobody reads, each with what may have been meant: a typo must not pass in silence."""
    known = [f"FETTLE_{name.upper()}" for name in Settings.model_fields] + list(_OTHERS_VARIABLES)
    unknown = [
        name
        for name in os.environ
        if name.startswith("FETTLE_") and name not in known and not name.startswith(_OTHERS_PREFIX)
    ]
    meant = {name: difflib.get_close_matches(name, known, n=1) for name in unknown}
    return [f"{name} (did you mean {close[0]}?)" if close else name for name, close in meant.items()]


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
