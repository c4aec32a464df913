"""The command and the environment of one base model's vLLM on this machine. The flags are `tuning.vllm_arguments`'."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from service.settings import Settings
from tuning.catalogue import CatalogueEntry
from tuning.vllm_arguments import (
    API_SERVER,
    FIXED_ENVIRONMENT,
    QUIET_ENVIRONMENT,
    cpu_environment,
    generation_config_path,
    is_cpu_build,
    is_installed,
    model_arguments,
    template_path,
)

# vLLM gets what it needs to find Python, the GPU, base models and the object storage, and nothing else: no API keys of
# the service, no database URL.
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "SSL_CERT_FILE")
_PASSED_ON_PREFIXES = ("HF_", "CUDA_", "NVIDIA_", "LD_", "OMP_", "XDG_")


def has_vllm() -> bool:
    return is_installed("vllm") or is_cpu_build()


def vllm_arguments(base: CatalogueEntry, settings: Settings, folder: Path) -> list[str]:
    """Without the port. `folder` holds what `write_model_files` wrote."""
    is_cpu = is_cpu_build()
    arguments = [
        *(sys.executable, "-m", API_SERVER),
        *("--host", "127.0.0.1"),
        *model_arguments(base, folder, is_cpu=is_cpu),
    ]
    if not is_cpu:
        arguments += ["--gpu-memory-utilization", str(settings.gpu_memory_utilization)]
    return arguments


def vllm_environment(base: CatalogueEntry, settings: Settings, adapter_cache: Path) -> dict[str, str]:
    """Without the key."""
    uses_s3 = settings.resolved_storage_uri.startswith("s3://")
    prefixes = (*_PASSED_ON_PREFIXES, "AWS_") if uses_s3 else _PASSED_ON_PREFIXES
    environment = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith(prefixes)}
    environment |= FIXED_ENVIRONMENT | QUIET_ENVIRONMENT
    environment |= {
        "FETTLE_ADAPTERS_URI": f"{settings.resolved_storage_uri.rstrip('/')}/adapters",
        "FETTLE_ADAPTER_CACHE_DIR": str(adapter_cache),
        "FETTLE_BASE_MODEL": base.name,
    }
    if base.is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    if uses_s3:
        environment |= settings.s3_environment
    if is_cpu_build():
        environment |= cpu_environment(settings.vllm_kv_cache_gib)
    return environment


def configuration_hash(arguments: list[str], environment: Mapping[str, str], folder: Path) -> str:
    """Of what shapes a vLLM process, so that a running one is adopted only when it is the one we want.

    Of the environment only what is ours: credentials rotate, and a shell's PATH is no reason to load a model again.
    """
    ours = {name: value for name, value in environment.items() if name.startswith(("FETTLE_", "VLLM_"))}
    files = [path.read_text("utf-8") for path in (template_path(folder), generation_config_path(folder))]
    return hashlib.sha256(json.dumps([arguments, sorted(ours.items()), files]).encode()).hexdigest()
