"""All settings of the service, from `FETTLE_*` variables and the command line; the only reader of the environment."""

import difflib
import ipaddress
import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.object_storage.base import AddressingStyle, S3Access
from service.server_urls import fault_of_server_url
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
    role: Literal["all", "api", "dispatcher"] = "all"
    """What this process does. `all`: everything, on one machine. On a cluster `api` answers requests and `dispatcher`
    works on jobs, batches, webhooks and what is to be deleted; both may have several replicas."""
    ops_port: int | None = Field(None, ge=0, le=65535)
    """A port of its own for `/livez`, `/readyz` and `/metrics`, on every address; default: only `/livez` and `/readyz`,
    beside the API. Needed by the role `dispatcher`, which has no other."""
    stop_grace: Duration = Field(timedelta(seconds=10), ge=timedelta(0))
    """How long open requests may go on after SIGTERM. Whoever stops the process must wait some seconds longer."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Comma-separated: the operators' keys, which open everything. Without them only a loopback host may be served, and
    everybody on this machine is an operator until the first key is made through the admin API."""
    organization: str = Field("fettle", pattern=ORGANIZATION_NAME_PATTERN)
    """The default organization's name: the third part of `ft:{base}:{organization}:{suffix}:{id}`."""

    # where its state lies
    data_dir: Path = Path("fettle-data")
    database_url: str | None = None
    """SQLAlchemy's; default: SQLite in the data folder."""
    database_pool_size: int = Field(15, ge=2)
    """Connections of this process. All replicas together must stay under PostgreSQL's `max_connections`."""
    migrations: Literal["at_start", "checked"] = "at_start"
    """`checked`: the schema is brought up to date elsewhere, by `fettle migrate`; a start waits until it is."""
    storage_uri: str | None = None
    """`file:///folder` or `s3://bucket/prefix`; default: a folder in the data folder."""
    s3_endpoint_url: str | None = None
    s3_region: str | None = None
    s3_addressing_style: AddressingStyle | None = None
    """Where the bucket's name stands in an address; default: `path` with an endpoint of one's own, else `auto`."""
    models_file: Path = DEFAULT_CATALOGUE

    # limits
    max_file_bytes: int = Field(512 * MEGABYTE, gt=0)

    # logs and traces
    log_format: Literal["text", "json"] = "text"
    otlp_endpoint: str | None = Field(None, pattern=r"^https?://")
    """An OpenTelemetry collector (OTLP over HTTP), such as `http://collector:4318`; without it nothing is traced."""

    # jobs
    executor: Literal["local", "kubernetes"] = "local"
    """Where trainers run: as processes of this machine, or as Kubernetes Jobs."""
    kubernetes_file: Path | None = None
    """YAML for `executor=kubernetes`: what training pods are made of. `service/executors/kubernetes_settings.py`."""
    max_running_jobs: int = Field(1, ge=0)
    """0 starts none and lets the running ones go on: for maintenance."""
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

    # evaluation
    evaluation_timeout: Duration = Field(timedelta(minutes=5), gt=timedelta(0))
    """For both models to answer the held-out rows of one job; what is answered by then counts."""

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
    serving: Literal["vllm", "remote", "off"] = "vllm"
    """`vllm`: processes of this machine, started on demand. `remote`: somebody else starts them, see `vllm_urls`."""
    vllm_urls: dict[str, str] = {}
    """For `serving=remote`, as JSON: the address of each base model's vLLM, by the model's name in the catalogue. Each
    runs our serving image. A model without an address is tuned and not served."""
    vllm_api_key: SecretStr | None = None
    """For `serving=remote`: the key that these vLLMs want."""
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
    def _check_executor(self) -> Self:
        if self.executor == "kubernetes":
            if self.kubernetes_file is None:
                raise ValueError("executor=kubernetes needs kubernetes_file, which says what training pods are made of")
            if self.storage_uri is None:
                raise ValueError("executor=kubernetes needs storage_uri, such as s3://bucket/prefix, for pods to reach")
        elif self.kubernetes_file is not None:
            raise ValueError("kubernetes_file has no use with executor=local; set executor=kubernetes or leave it out")
        return self

    @field_validator("s3_endpoint_url")
    @classmethod
    def _check_s3_endpoint_url(cls, url: str | None) -> str | None:
        if url is not None and (fault := fault_of_server_url(url)) is not None:
            raise ValueError(f"it {fault}; one looks like https://minio.example.org:9000")
        return url

    @field_validator("vllm_urls")
    @classmethod
    def _check_vllm_urls(cls, urls: dict[str, str]) -> dict[str, str]:
        for name, url in urls.items():
            if (fault := fault_of_server_url(url)) is not None:
                raise ValueError(f"the address of {name!r} {fault}; one looks like http://vllm-{name}:8000")
        return urls

    @model_validator(mode="after")
    def _check_serving(self) -> Self:
        if self.serving == "remote":
            if not self.vllm_urls:
                raise ValueError("serving=remote needs vllm_urls, a JSON object of model names and addresses")
            if self.vllm_api_key is None or not self.vllm_api_key.get_secret_value():
                raise ValueError("serving=remote needs vllm_api_key, the key that the vLLMs were started with")
            unused = {"vllm_kv_cache_gib", "gpu_memory_utilization"} & self.model_fields_set
            remedy = "give it to those who start the vLLMs"
        else:
            unused = {"vllm_urls", "vllm_api_key"} & self.model_fields_set
            remedy = "set serving=remote or leave it out"
        if unused:
            raise ValueError(f"{sorted(unused)[0]} has no use with serving={self.serving}; {remedy}")
        return self

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
    def s3_access(self) -> S3Access:
        return {
            "endpoint_url": self.s3_endpoint_url,
            "region": self.s3_region,
            "addressing_style": self.s3_addressing_style,
        }

    @property
    def s3_environment(self) -> dict[str, str]:
        """Of trainers and engines: where the object storage is. Credentials come another way."""
        values = {
            "AWS_ENDPOINT_URL_S3": self.s3_endpoint_url,
            "AWS_DEFAULT_REGION": self.s3_region,
            "FETTLE_S3_ADDRESSING_STYLE": self.s3_addressing_style,
        }
        return {name: value for name, value in values.items() if value}

    @property
    def wandb_environment(self) -> dict[str, str]:
        """Of a trainer."""
        key = self.wandb_api_key.get_secret_value() if self.wandb_api_key else None
        environment = {"WANDB_MODE": self.wandb_mode, "WANDB_API_KEY": key, "WANDB_BASE_URL": self.wandb_base_url}
        return {name: value for name, value in environment.items() if value}

    def refusal_to_serve(self) -> str | None:
        """Why these settings must not be served, or None."""
        if self.role != "all" and (refusal := self._refusal_of_role()) is not None:
            return refusal
        if self.role == "dispatcher" or self.api_keys or is_loopback(self.host):
            return None
        return (
            f"Refusing to serve on {self.host} without API keys: anyone who reaches this port could read the data and "
            "start training. Set FETTLE_API_KEYS=key1,key2 or serve on 127.0.0.1."
        )

    def _refusal_of_role(self) -> str | None:
        """API and dispatcher are processes of their own, which share the database and the storage."""
        if self.role == "dispatcher" and self.ops_port is None:
            return "FETTLE_ROLE=dispatcher answers /livez, /readyz and /metrics alone. Set FETTLE_OPS_PORT, as to 9090."
        if self.resolved_database_url.startswith("sqlite"):
            return (
                f"FETTLE_ROLE={self.role} shares its database with other processes, which SQLite is not made for. "
                "Set FETTLE_DATABASE_URL=postgresql+psycopg://user:password@host/database."
            )
        if self.storage_uri is None:
            return (
                f"FETTLE_ROLE={self.role} shares its storage with other processes. Set FETTLE_STORAGE_URI=s3://bucket/"
                "prefix, or file:///folder on a volume that all of them have."
            )
        if self.serving == "vllm":
            return (
                f"FETTLE_ROLE={self.role} starts no vLLM: with FETTLE_SERVING=vllm each process would start its own. "
                "Set FETTLE_SERVING=remote and FETTLE_VLLM_URLS, or FETTLE_SERVING=off."
            )
        return None


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
