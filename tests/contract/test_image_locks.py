"""The locks of the images hold what each image imports, and nothing of the others."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
LOCKS = PROJECT / "requirements"
TORCH = {"torch", "transformers", "trl", "peft", "datasets", "vllm"}
TYPES_ONLY = {"mypy-boto3-s3"}
WEB = {"fastapi", "uvicorn", "sqlalchemy", "alembic", "kubernetes"}


def locked(name: str) -> dict[str, set[str]]:
    """Versions by the distribution's name: some have one for each Python or platform."""
    versions: dict[str, set[str]] = {}
    for line in (LOCKS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        if pin := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line):
            versions.setdefault(_normal(pin[1]), set()).add(pin[2])
    return versions


def imported(*packages: str) -> set[str]:
    """Distributions of others that the packages import at any place."""
    modules: set[str] = set()
    for path in (path for package in packages for path in (PROJECT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    others = modules - sys.stdlib_module_names - {"tuning", "service", "trainer_image", "serving_image"}
    distributions = packages_distributions()
    return {_normal(distributions[module][0]) for module in others if module in distributions} - TYPES_ONLY


@pytest.mark.parametrize(
    ("lock", "packages", "foreign"),
    [
        ("service", ("service", "tuning"), TORCH),
        ("trainer-cpu", ("trainer_image", "tuning"), WEB | {"vllm"}),
        ("trainer-cuda", ("trainer_image", "tuning"), WEB | {"vllm"}),
    ],
)
def test_an_image_has_what_it_imports_and_nothing_of_the_others(
    lock: str, packages: tuple[str, ...], foreign: set[str]
) -> None:
    assert imported(*packages) - locked(lock).keys() == set()
    assert foreign & locked(lock).keys() == set()


@pytest.mark.parametrize(
    ("lock", "tested"),
    [
        ("service", "cpu"),
        ("trainer-cpu", "cpu"),
        ("trainer-cuda", "cuda"),
        ("serving", "cuda"),
        ("serving-cpu", "cpu"),
    ],
)
def test_an_image_has_the_versions_that_are_tested_together(lock: str, tested: str) -> None:
    versions = locked(tested)
    others = {name for name, version in locked(lock).items() if not version <= versions.get(name, version)}
    assert others == set(), "make lock"


def test_the_serving_image_is_built_on_the_vllm_of_the_lock() -> None:
    dockerfile = (PROJECT / "serving_image" / "Dockerfile").read_text(encoding="utf-8")
    [version] = locked("cuda")["vllm"]
    assert f"ARG BASE_IMAGE=vllm/vllm-openai:v{version}\n" in dockerfile


def test_the_images_have_the_projects_version() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for path in ("Dockerfile", "trainer_image/Dockerfile", "serving_image/Dockerfile"):
        assert f"ARG VERSION={version}\n" in (PROJECT / path).read_text(encoding="utf-8"), path


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
