"""Who may import what. The tree of imports shows our own rules; `sys.modules` shows what libraries bring along."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
OURS = ("tuning", "service", "trainer_image", "serving_image")

FIRST_PARTY = {
    "tuning": set[str](),
    "service": {"tuning"},
    "trainer_image": {"tuning"},
    "serving_image": {"tuning"},
}
"""What each package may import of ours, besides itself."""

LIBRARIES_OF_TUNING = {
    *("pydantic", "pydantic_core", "msgspec", "jinja2", "tokenizers", "huggingface_hub", "yaml"),
    *("rapidfuzz", "sacrebleu", "nltk", "rouge_score"),
}

WEB = {"fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "kubernetes"}
TRAINING = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
FORBIDDEN = {
    "service": TRAINING | {"vllm"},
    "trainer_image": WEB | {"vllm"},
    "serving_image": WEB | (TRAINING - {"torch"}),  # it patches what vLLM computes with torch
}

HOMES = {
    "kubernetes": ("service/executors/",),
    "boto3": ("service/object_storage/s3", "trainer_image/artifacts.py", "serving_image/adapter_pull.py"),
    "botocore": ("service/object_storage/s3", "trainer_image/artifacts.py", "serving_image/adapter_pull.py"),
    "wandb": ("trainer_image/wandb_runs.py",),
    "openai": ("service/cli/",),
    "prometheus_client": ("service/operations/",),
    "opentelemetry": ("service/operations/",),
    "pythonjsonlogger": ("service/operations/json_lines.py",),
}
"""One home per client library."""

ENVIRONMENT_OF_CHILDREN = {
    "service/executors/local_process.py",
    "service/inference/vllm_command.py",
    "service/cli/demo/child_service.py",
}
"""They hand the environment on to a process that they start. Everything else is in `settings.py`."""


@dataclass(frozen=True)
class Import:
    file: str
    line: int
    module: str

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def files_of(package: str) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((PROJECT / package).rglob("*.py")):
        yield path.relative_to(PROJECT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def imports_of(package: str) -> Iterator[Import]:
    """Also those inside functions."""
    for file, tree in files_of(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from (Import(file, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file}:{node.lineno}: relative import; name the module in full"
                yield Import(file, node.lineno, node.module or "")


@pytest.mark.parametrize("package", OURS)
def test_packages_of_ours_depend_on_each_other_in_one_direction(package: str) -> None:
    allowed = FIRST_PARTY[package] | {package}
    assert [str(each) for each in imports_of(package) if each.top in OURS and each.top not in allowed] == []


def test_tuning_needs_nothing_but_small_libraries() -> None:
    allowed = sys.stdlib_module_names | LIBRARIES_OF_TUNING | {"tuning"}
    assert [str(each) for each in imports_of("tuning") if each.top not in allowed] == []


@pytest.mark.parametrize("package", FORBIDDEN)
def test_a_package_stays_out_of_the_others_libraries(package: str) -> None:
    assert [str(each) for each in imports_of(package) if each.top in FORBIDDEN[package]] == []


@pytest.mark.parametrize("library", HOMES)
def test_a_client_library_has_one_home_per_package(library: str) -> None:
    strays = [
        str(each)
        for package in OURS
        for each in imports_of(package)
        if each.top == library and not each.file.startswith(HOMES[library])
    ]
    assert strays == []


def test_only_the_settings_read_the_environment_of_the_service() -> None:
    readers = {
        file
        for file, tree in files_of("service")
        for node in ast.walk(tree)
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
        or (isinstance(node, ast.ImportFrom) and {"environ", "getenv"} & {alias.name for alias in node.names})
    }
    assert readers - ENVIRONMENT_OF_CHILDREN - {"service/settings.py"} == set()


@pytest.mark.parametrize(
    ("package", "unwanted"),
    [
        ("tuning", WEB | TRAINING | {"vllm"}),
        ("service", TRAINING | {"vllm"}),
        ("trainer_image", WEB | {"service", "vllm"}),
        ("serving_image", {"sqlalchemy", "kubernetes", "service", "trainer_image"}),  # vLLM itself brings FastAPI
    ],
)
def test_importing_a_package_loads_nothing_of_the_others(package: str, unwanted: set[str]) -> None:
    modules = [module for module in modules_of(package) if "migrations" not in module]  # Alembic alone can import them
    script = (
        f"import sys; import {', '.join(modules)}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    )
    finished = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert unwanted & set(finished.stdout.split()) == set()


def modules_of(package: str) -> list[str]:
    """Every module but those that run something when imported."""
    paths = (PROJECT / package).rglob("*.py")
    names = (path.relative_to(PROJECT).with_suffix("").as_posix().replace("/", ".") for path in sorted(paths))
    return [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
