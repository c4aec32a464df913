import json
from pathlib import Path

import pytest

from serving_image.adapter_pull import AdapterUnusable, pull_adapter
from tuning.adapter_manifest import ADAPTER_FILES, MANIFEST_NAME, AdapterManifest, describe_file

PLAIN = {"peft_type": "LORA", "bias": "none", "r": 4}


def _publish(adapters: Path, config: object = PLAIN, base_model: str = "tiny") -> str:
    staging = adapters / "staging"
    staging.mkdir(parents=True)
    (staging / "adapter_config.json").write_text(json.dumps(config))
    (staging / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 10_000)
    manifest = AdapterManifest(
        base_model=base_model,
        base_revision=None,
        template_sha256="0" * 64,
        r=4,
        lora_alpha=8,
        target_modules=("q_proj",),
        files=tuple(describe_file(staging / name) for name in ADAPTER_FILES),
    )
    (staging / MANIFEST_NAME).write_bytes(manifest.to_json())
    staging.rename(adapters / manifest.adapter_sha256)
    return manifest.adapter_sha256


def test_an_adapter_is_copied_whole_and_stays_when_the_stored_one_changes(tmp_path: Path) -> None:
    name = _publish(tmp_path / "a folder")
    stored = tmp_path / "a folder" / name
    folder = pull_adapter((tmp_path / "a folder").as_uri(), tmp_path / "cache", name, "tiny")
    assert folder is not None
    assert sorted(path.name for path in folder.iterdir()) == list(ADAPTER_FILES)
    for file in ADAPTER_FILES:
        assert (folder / file).read_bytes() == (stored / file).read_bytes()
        assert (folder / file).stat().st_ino != (stored / file).stat().st_ino
        (stored / file).write_bytes(b"")
    assert pull_adapter((tmp_path / "a folder").as_uri(), tmp_path / "cache", name, "tiny") == folder
    assert (folder / "adapter_model.safetensors").stat().st_size == 2_560_000


@pytest.mark.parametrize(
    "name", ["0" * 64, "../stored", "/etc", "", "A" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n", "0" * 63 + "\u0661"]
)
def test_a_name_that_is_no_stored_hash_is_not_found(tmp_path: Path, name: str) -> None:
    _publish(tmp_path / "stored")
    assert pull_adapter((tmp_path / "stored").as_uri(), tmp_path / "cache", name, "tiny") is None
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("file", [MANIFEST_NAME, *ADAPTER_FILES])
@pytest.mark.parametrize("damage", ["flipped", "cut", "longer"])
def test_a_damaged_adapter_is_refused_and_leaves_nothing_behind(tmp_path: Path, file: str, damage: str) -> None:
    name = _publish(tmp_path / "stored")
    path = tmp_path / "stored" / name / file
    content = path.read_bytes()
    damaged = {"flipped": bytes([content[0] ^ 1]) + content[1:], "cut": content[:-1], "longer": content + b"\0"}
    path.write_bytes(damaged[damage])
    with pytest.raises(AdapterUnusable):
        pull_adapter((tmp_path / "stored").as_uri(), tmp_path / "cache", name, "tiny")
    assert list((tmp_path / "cache").glob("*")) == []


def test_an_adapter_of_another_base_model_is_refused(tmp_path: Path) -> None:
    name = _publish(tmp_path / "stored", base_model="other")
    with pytest.raises(AdapterUnusable, match="belongs to other, not to tiny"):
        pull_adapter((tmp_path / "stored").as_uri(), tmp_path / "cache", name, "tiny")


@pytest.mark.parametrize(
    "config",
    [
        PLAIN | {"use_dora": True},
        PLAIN | {"bias": "all"},
        PLAIN | {"modules_to_save": ["lm_head"]},
        PLAIN | {"peft_type": "PROMPT_TUNING"},
        {},
        [],
    ],
)
def test_what_is_no_plain_lora_is_refused(tmp_path: Path, config: object) -> None:
    name = _publish(tmp_path / "stored", config)
    with pytest.raises(AdapterUnusable, match="adapter"):
        pull_adapter((tmp_path / "stored").as_uri(), tmp_path / "cache", name, "tiny")


def test_an_adapter_without_one_of_its_files_is_refused(tmp_path: Path) -> None:
    name = _publish(tmp_path / "stored")
    (tmp_path / "stored" / name / "adapter_config.json").unlink()
    with pytest.raises(AdapterUnusable, match=r"adapter_config\.json is missing"):
        pull_adapter((tmp_path / "stored").as_uri(), tmp_path / "cache", name, "tiny")
