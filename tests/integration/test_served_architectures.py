"""Serve-ability, proven: the real vLLM loads an adapter on every linear layer, for each architecture.

The architecture of the default base model is proven in `test_vllm_server.py`, on a vLLM that runs there anyway. The
others take a start of vLLM each, and run where FETTLE_TEST_ALL_ARCHITECTURES is set.
"""

import os
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors import safe_open

from service.inference.routing import ServedModel
from service.settings import Settings
from tests.fixtures.architectures import ARCHITECTURES, build_model, publish_untrained_adapter
from tests.fixtures.inference import running_gateway
from tests.fixtures.tiny_model import tiny_entry
from tuning.model_shape import read_shape

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system"),
    pytest.mark.skipif(
        not os.environ.get("FETTLE_TEST_ALL_ARCHITECTURES"), reason="FETTLE_TEST_ALL_ARCHITECTURES is not set"
    ),
]

START_LIMIT_SECONDS = 300
TUNED = "ft:base:fettle::adapter1"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_vllm_loads_an_adapter_on_every_linear_layer(architecture: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    build_model(model, architecture)
    base = tiny_entry(model, name="base")
    assert base.architecture == architecture
    settings = Settings(data_dir=tmp_path / "data", serving_wait=timedelta(seconds=START_LIMIT_SECONDS))
    async with running_gateway(settings) as gateway:
        sha256 = publish_untrained_adapter(gateway.adapters, base, tmp_path / "job", r=base.max_lora_rank)
        for name, adapter in (("base", None), (TUNED, sha256)):
            gateway.add(ServedModel(name, base, adapter))
        said = [
            (await gateway.client.completions.create(model=name, prompt="abc", max_tokens=8, temperature=0)).choices[0]
            for name in ("base", TUNED)
        ]
    assert said[0].text == said[1].text
    assert len(list(read_shape(base).targets("all-linear"))) == adapted_layers(tmp_path / "job" / "adapter")


def adapted_layers(adapter: Path) -> int:
    with safe_open(adapter / "adapter_model.safetensors", framework="np") as tensors:
        return len(list(tensors.keys())) // 2
