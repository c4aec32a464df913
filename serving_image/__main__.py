"""`python -m serving_image [vLLM's arguments…]`: becomes the vLLM of one base model of the catalogue, on port 8000.

Everything comes from the environment; the arguments are added to those that the catalogue's entry gives. AWS_* and HF_*
are the standard ones, VLLM_* is vLLM's own.

    FETTLE_BASE_MODEL          which entry of the catalogue
    FETTLE_MODELS_FILE         the catalogue; default: ours
    FETTLE_ADAPTERS_URI        where the resolver finds adapters: see resolver.py
    FETTLE_ADAPTER_CACHE_DIR   local disk for them; it may hold those of an earlier process
    VLLM_API_KEY               what every request must bring, but for GET /livez
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue, CatalogueEntry, CatalogueError
from tuning.vllm_arguments import (
    API_SERVER,
    FIXED_ENVIRONMENT,
    KEY_VARIABLE,
    QUIET_ENVIRONMENT,
    cpu_environment,
    is_cpu_build,
    model_arguments,
    write_model_files,
)

REQUIRED = ("FETTLE_BASE_MODEL", "FETTLE_ADAPTERS_URI", "FETTLE_ADAPTER_CACHE_DIR", KEY_VARIABLE)
LISTEN = ("--host", "0.0.0.0", "--port", "8000")
CPU_KV_CACHE_GIB = 1
"""Unless VLLM_CPU_KVCACHE_SPACE says more."""
REFUSED = 2
"""Exit code: with this environment nothing can be served. 1 is for a vLLM that started and failed."""


class Unusable(Exception):
    """The environment cannot be used; the message says what to change."""


def main(extra: Sequence[str]) -> NoReturn:
    try:
        base = _find_base(os.environ)
        is_cpu = is_cpu_build()
        environment = _environment(os.environ, base, is_cpu=is_cpu)
        folder = Path(tempfile.mkdtemp(prefix="fettle-serving-"))
        write_model_files(base, folder)
        _prepare_cache(Path(environment["FETTLE_ADAPTER_CACHE_DIR"]))
    except (Unusable, CatalogueError, OSError) as error:
        print(f"serving_image: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    arguments = [sys.executable, "-m", API_SERVER, *LISTEN, *model_arguments(base, folder, is_cpu=is_cpu), *extra]
    os.execve(sys.executable, arguments, environment)


def _find_base(environment: Mapping[str, str]) -> CatalogueEntry:
    """Raises Unusable, CatalogueError."""
    if missing := [name for name in REQUIRED if not environment.get(name)]:
        raise Unusable(f"set {' and '.join(missing)}; `serving_image/__main__.py` says what each is for")
    path = Path(environment.get("FETTLE_MODELS_FILE") or DEFAULT_CATALOGUE)
    catalogue = Catalogue.load(path)
    name = environment["FETTLE_BASE_MODEL"]
    base = catalogue.get(name)
    if base is None:
        known = ", ".join(entry.name for entry in catalogue.models)
        raise Unusable(f"FETTLE_BASE_MODEL is {name!r}, which {path} does not have; it has {known}")
    return base


def _environment(given: Mapping[str, str], base: CatalogueEntry, *, is_cpu: bool) -> dict[str, str]:
    """What is given comes before our defaults; what the resolver cannot do without is not for the giver to change.
    Raises Unusable."""
    for name, value in FIXED_ENVIRONMENT.items():
        if given.get(name, value) != value:
            raise Unusable(f"{name} must be {value!r} or not set: adapters could not be loaded, or anybody's could")
    defaults = QUIET_ENVIRONMENT | (cpu_environment(CPU_KV_CACHE_GIB) if is_cpu else {})
    if base.is_local:
        defaults |= {"HF_HUB_OFFLINE": "1"}
    return {**defaults, **given, **FIXED_ENVIRONMENT}


def _prepare_cache(folder: Path) -> None:
    """Adapters that lie there are whole; what a killed process had begun to pull is not. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for partial in folder.glob(".partial-*"):
        shutil.rmtree(partial)


if __name__ == "__main__":
    main(sys.argv[1:])
