"""`fettle models fetch` against a hub over HTTP, and what can be done with its cache where there is no hub."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures.catalogues import catalogue_with_copied_model
from tests.fixtures.hugging_face_hub import HUB_MODEL, NEVER_FETCHED, Hub, fettle_models_fetch, running_hub
from tuning.catalogue import DEFAULT_CATALOGUE

TINY = DEFAULT_CATALOGUE.parent / "base_models" / "fettle-tiny"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def write_catalogue(folder: Path, **changes: Any) -> Path:
    entries = yaml.safe_load(DEFAULT_CATALOGUE.read_text())["models"]
    tiny = next(entry for entry in entries if entry["name"] == "fettle-tiny")
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": [tiny | {"source": HUB_MODEL} | changes]}))
    return path


def files_under(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_model_is_fetched_once_and_without_pickles_and_code(hub: Hub, tmp_path: Path) -> None:
    repository = hub.add(HUB_MODEL, TINY)
    catalogue, environment = write_catalogue(tmp_path), hub.environment(tmp_path / "hf")
    first = fettle_models_fetch(environment, catalogue)
    assert first.returncode == 0, first.stderr
    wanted = repository.files.keys() - NEVER_FETCHED.keys()
    assert f"fetching {len(wanted)} files of {HUB_MODEL}" in first.stdout
    assert sorted(hub.downloads) == sorted(wanted)
    again = fettle_models_fetch(environment, catalogue)
    assert again.returncode == 0
    assert "is there" in again.stdout
    assert len(hub.downloads) == len(wanted)


@pytest.mark.parametrize("pinned", [True, False])
def test_service_and_trainer_load_a_fetched_model_without_the_hub_and_write_nothing(
    hub: Hub, tmp_path: Path, pinned: bool
) -> None:
    repository = hub.add(HUB_MODEL, TINY)
    catalogue = write_catalogue(tmp_path, revision=repository.commit if pinned else None)
    home = tmp_path / "hf"
    assert fettle_models_fetch(hub.environment(home), catalogue).returncode == 0
    fetched = files_under(home)
    hub.repositories.clear()
    script = f"""
from pathlib import Path
from types import SimpleNamespace
from trainer_image.model import load_model, load_renderer
from tuning.catalogue import Catalogue
from tuning.contract import BaseModelSpec, LoraSpec
from tuning.data.rendering import ChatRenderer

entry = Catalogue.load(Path({str(catalogue)!r})).models[0]
assert ChatRenderer.from_entry(entry).template_sha256 == entry.template_sha256
spec = SimpleNamespace(
    base_model=BaseModelSpec(
        name=entry.name, source=entry.source, revision=entry.revision, dtype=entry.dtype, template_path=None,
        template_sha256=entry.template_sha256, stop_tokens=entry.stop_tokens,
    ),
    method=SimpleNamespace(max_length=64), seed=1, parent_adapter_sha256=None,
    lora=LoraSpec(r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear"),
)
load_renderer(spec)
load_model(spec, Path({str(tmp_path / "work")!r}))
"""
    environment = hub.environment(home) | {"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert files_under(home) == fetched


def test_offline_a_whole_model_will_do_and_a_missing_one_is_told(hub: Hub, tmp_path: Path) -> None:
    hub.add(HUB_MODEL, TINY)
    catalogue, environment = write_catalogue(tmp_path), hub.environment(tmp_path / "hf")
    missing = fettle_models_fetch(environment | {"HF_HUB_OFFLINE": "1"}, catalogue)
    assert missing.returncode == 1
    assert "HF_HUB_OFFLINE forbids to fetch it" in missing.stderr
    assert fettle_models_fetch(environment, catalogue).returncode == 0
    assert fettle_models_fetch(environment | {"HF_HUB_OFFLINE": "1"}, catalogue).returncode == 0


def test_a_gated_model_needs_a_token(hub: Hub, tmp_path: Path) -> None:
    hub.add(HUB_MODEL, TINY).is_gated = True
    catalogue, environment = write_catalogue(tmp_path), hub.environment(tmp_path / "hf")
    refused = fettle_models_fetch(environment, catalogue)
    assert refused.returncode == 1
    assert "is gated: accept its licence there, and set HF_TOKEN" in refused.stderr
    assert fettle_models_fetch(environment | {"HF_TOKEN": hub.token}, catalogue).returncode == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"source": "fettle/none"}, "fettle/none does not exist, or is private and HF_TOKEN"),
        ({"revision": "v9"}, "has no revision 'v9'; correct `revision`"),
        ({"source": "/nowhere/model"}, "the folder /nowhere/model does not exist; correct `source`"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(hub: Hub, tmp_path: Path, changes: dict[str, str], told: str) -> None:
    hub.add(HUB_MODEL, TINY)
    failed = fettle_models_fetch(hub.environment(tmp_path / "hf"), write_catalogue(tmp_path, **changes))
    assert failed.returncode == 1
    assert told in failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_a_model_with_nothing_but_pickles_is_refused(hub: Hub, tmp_path: Path) -> None:
    del hub.add(HUB_MODEL, TINY).files["model.safetensors"]
    failed = fettle_models_fetch(hub.environment(tmp_path / "hf"), write_catalogue(tmp_path))
    assert failed.returncode == 1
    assert "has no *.safetensors; pickles are never loaded" in failed.stderr


def test_a_disk_without_room_is_told_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.add(HUB_MODEL, TINY).claimed_bytes = 10**18
    failed = fettle_models_fetch(hub.environment(tmp_path / "hf"), write_catalogue(tmp_path))
    assert failed.returncode == 1
    assert "are missing; make room, or set HF_HOME" in failed.stderr
    assert hub.downloads == []


def test_one_failure_does_not_keep_the_others_from_being_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.add(HUB_MODEL, TINY)
    entry = yaml.safe_load(write_catalogue(tmp_path).read_text())["models"][0]
    names = ("broken", "whole")
    sources = ("fettle/none", HUB_MODEL)
    catalogue = tmp_path / "two.yaml"
    catalogue.write_text(
        yaml.safe_dump({"models": [entry | {"name": a, "source": b} for a, b in zip(names, sources, strict=True)]})
    )
    both = fettle_models_fetch(hub.environment(tmp_path / "hf"), catalogue)
    assert both.returncode == 1
    assert "broken: " in both.stderr and "whole: fetched" in both.stdout
    assert fettle_models_fetch(hub.environment(tmp_path / "hf"), catalogue, "whole").returncode == 0
    unknown = fettle_models_fetch(hub.environment(tmp_path / "hf"), catalogue, "other")
    assert unknown.returncode == 2
    assert "other: not in the catalogue" in unknown.stderr


def test_a_local_model_is_checked_to_be_there(tmp_path: Path) -> None:
    catalogue, model = catalogue_with_copied_model(tmp_path)
    assert fettle_models_fetch({}, catalogue).returncode == 0
    (model / "tokenizer.json").unlink()
    failed = fettle_models_fetch({}, catalogue)
    assert failed.returncode == 1
    assert "has no tokenizer.json" in failed.stderr
