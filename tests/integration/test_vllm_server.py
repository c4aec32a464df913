"""The gateway in front of a real vLLM. Starting one takes half a minute on two cores: three starts in this file."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import httpx
import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionMessageParam

from service.errors import Unavailable
from service.inference.gateway import warm
from service.inference.routing import AdapterRefused, ServedModel
from service.inference.vllm_server import VllmServers
from service.settings import Settings
from tests.fixtures.architectures import publish_untrained_adapter
from tests.fixtures.inference import Gateway, running_gateway
from tests.fixtures.tiny_model import build_tiny_model, publish_random_adapter, tiny_entry
from tuning.adapter_manifest import MANIFEST_NAME
from tuning.catalogue import DEFAULT_CATALOGUE, Catalogue

pytestmark = [
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed on this system"),
]

START_LIMIT_SECONDS = 300  # on a machine that does other things too
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say something."}]
TUNED = "ft:tiny:fettle::adapter1"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("tiny-model")
    build_tiny_model(folder)
    base = tiny_entry(folder)
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), serving_wait=timedelta(seconds=START_LIMIT_SECONDS))
    async with running_gateway(settings) as gateway:
        gateway.add(ServedModel("tiny", base, None))
        gateway.add(ServedModel(TUNED, base, publish_random_adapter(gateway.adapters, base, seed=1)))
        yield gateway


async def _say(gateway: Gateway, model: str) -> str:
    answer = await gateway.client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=24, temperature=0)
    assert answer.model == model
    content = answer.choices[0].message.content
    assert content is not None
    return content


def _publish(gateway: Gateway, name: str, seed: int) -> tuple[ServedModel, Path]:
    base = gateway.models["tiny"].base
    sha256 = publish_random_adapter(gateway.adapters, base, seed)
    model = ServedModel(name, base, sha256)
    gateway.add(model)
    return model, gateway.adapters / sha256


def _runs(gateway: Gateway) -> list[Path]:
    return sorted((gateway.settings.serving_dir / "tiny" / "runs").iterdir())


async def test_a_request_that_waits_too_long_for_the_start_is_told_when_to_come_again(gateway: Gateway) -> None:
    with pytest.raises(Unavailable) as raised:
        await gateway.servers.ready(gateway.models["tiny"].base, timedelta(seconds=0.1))
    assert raised.value.headers["retry-after"] == "5"


async def test_first_requests_share_one_start_and_base_and_adapter_answer_differently(gateway: Gateway) -> None:
    base, tuned, base_again = await asyncio.gather(_say(gateway, "tiny"), _say(gateway, TUNED), _say(gateway, "tiny"))
    assert len(_runs(gateway)) == 1
    assert base == base_again == await _say(gateway, "tiny")
    assert tuned == await _say(gateway, TUNED)
    assert tuned != base


async def test_an_untrained_adapter_on_every_linear_layer_answers_as_its_base(gateway: Gateway, tmp_path: Path) -> None:
    """Of the largest rank that is let through: what `servability.py` promises of the default base's architecture."""
    base = gateway.models["tiny"].base
    assert base.architecture == Catalogue.load(DEFAULT_CATALOGUE).models[0].architecture
    sha256 = publish_untrained_adapter(gateway.adapters, base, tmp_path / "job", r=base.max_lora_rank)
    untrained = gateway.add(ServedModel("ft:tiny:fettle::untrained", base, sha256))
    assert await _say(gateway, untrained) == await _say(gateway, "tiny")


async def test_a_stream_carries_the_public_name_in_every_chunk(gateway: Gateway) -> None:
    stream = await gateway.client.chat.completions.create(
        model=TUNED,
        messages=MESSAGES,
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert {chunk.model for chunk in chunks} == {TUNED}
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 24
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == await _say(gateway, TUNED)


async def test_completions_answer_whole_and_streamed(gateway: Gateway) -> None:
    whole = await gateway.client.completions.create(model=TUNED, prompt="abc", max_tokens=8, temperature=0)
    stream = await gateway.client.completions.create(
        model=TUNED, prompt="abc", max_tokens=8, temperature=0, stream=True
    )
    assert whole.model == TUNED
    assert "".join([chunk.choices[0].text async for chunk in stream]) == whole.choices[0].text


async def test_tool_calls_are_parsed(gateway: Gateway) -> None:
    call = '<tool_call>\n{"name": "set_light", "arguments": {"room": "kitchen"}}\n</tool_call>'
    answer = await gateway.client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=200,
        tools=[{"type": "function", "function": {"name": "set_light", "parameters": {"type": "object"}}}],
        extra_body={"structured_outputs": {"choice": [call]}},  # a random model says it only when it must
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None and calls[0].type == "function"
    assert calls[0].function.name == "set_light"
    assert json.loads(calls[0].function.arguments) == {"room": "kitchen"}


async def test_errors_of_vllm_are_openai_errors_with_public_names(gateway: Gateway) -> None:
    sha256 = gateway.models[TUNED].engine_name
    for extra, param in (
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 100_000}, "max_tokens"),
        ({"messages": []}, None),
        ({"messages": [{"role": 1}]}, "messages.0"),
    ):
        response = await gateway.http.post("/chat/completions", json={"model": TUNED, "messages": MESSAGES, **extra})
        error = response.json()["error"]
        assert response.status_code == 400, extra
        assert set(error) == {"message", "type", "param", "code"}
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert "Param" not in error["message"] and "pydantic" not in error["message"]
        assert sha256 not in response.text and str(gateway.settings.data_dir) not in response.text


async def test_a_prompt_beyond_the_context_has_openais_code(gateway: Gateway) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await gateway.client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "a" * 600}], max_tokens=1
        )
    assert raised.value.code == "context_length_exceeded"


async def test_an_unknown_name_is_answered_with_404(gateway: Gateway) -> None:
    for name in ("nobody", "../adapters", "/etc", gateway.models[TUNED].engine_name):
        with pytest.raises(openai.NotFoundError) as raised:
            await _say(gateway, name)
        assert raised.value.code == "model_not_found"
        assert raised.value.param == "model"


async def test_an_adapter_that_is_not_in_storage_is_answered_with_404(gateway: Gateway) -> None:
    model = ServedModel("ft:tiny:fettle::gone", gateway.models["tiny"].base, "0" * 64)
    gateway.add(model)
    with pytest.raises(openai.NotFoundError, match="ft:tiny:fettle::gone"):
        await _say(gateway, model.public_name)
    with pytest.raises(AdapterRefused):
        await warm(gateway.servers, model)


@pytest.mark.parametrize("damaged", [MANIFEST_NAME, "adapter_model.safetensors", "adapter_config.json"])
async def test_a_damaged_adapter_is_refused(gateway: Gateway, damaged: str) -> None:
    model, folder = _publish(gateway, f"ft:tiny:fettle::{damaged}", seed=100 + len(damaged))
    (folder / damaged).write_bytes((folder / damaged).read_bytes().replace(b":", b";", 1))
    with pytest.raises(AdapterRefused, match="missing from storage or damaged"):
        await warm(gateway.servers, model)


async def test_an_adapter_outlives_its_deletion_from_storage_in_a_running_engine(gateway: Gateway) -> None:
    model, folder = _publish(gateway, "ft:tiny:fettle::deleted", seed=7)
    await warm(gateway.servers, model)
    shutil.rmtree(folder)
    assert await _say(gateway, model.public_name) != await _say(gateway, "tiny")


async def test_the_base_model_is_itself_beside_more_adapters_than_fit_into_a_batch(gateway: Gateway) -> None:
    alone = await _say(gateway, "tiny")
    names = [f"ft:tiny:fettle::crowd{seed}" for seed in range(20, 32)]
    crowd = [_publish(gateway, name, 20 + number)[0] for number, name in enumerate(names)]
    for model in crowd:
        await warm(gateway.servers, model)
    answers = await asyncio.gather(*(_say(gateway, name) for name in [*names, "tiny", *names, "tiny"]))
    assert answers[12] == answers[25] == alone
    assert answers[:12] == answers[13:25]
    assert len(set(answers)) > 6  # the adapters do differ


async def test_a_client_that_leaves_stops_the_generation(gateway: Gateway) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 500, "ignore_eos": True}
    finished = await _metric(gateway, "vllm:request_success_total")

    async with gateway.http.stream("POST", "/completions", json={**body, "stream": True}) as response:
        await anext(response.aiter_bytes())
    await _until_running(gateway, 0)

    waiting = asyncio.create_task(gateway.http.post("/completions", json=body))
    await _until_running(gateway, 1)
    waiting.cancel()
    await _until_running(gateway, 0)

    assert await _metric(gateway, "vllm:request_success_total") == finished  # neither came to its 500 tokens


async def _until_running(gateway: Gateway, requests: int) -> None:
    while await _metric(gateway, "vllm:num_requests_running") != requests:
        pass


async def _metric(gateway: Gateway, name: str) -> float:
    """Summed over its labels."""
    engine = await gateway.servers.ready(gateway.models["tiny"].base)
    metrics = (await gateway.servers.client.get(f"{engine.url}/metrics", headers=engine.headers)).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith(f"{name}{{"))


async def test_vllm_itself_is_closed_but_for_what_the_gateway_needs(gateway: Gateway) -> None:
    engine = await gateway.servers.ready(gateway.models["tiny"].base)
    async with httpx.AsyncClient(base_url=engine.url) as anybody:
        for path in ("/health", "/v1/models", "/tokenize", "/adapters", "/v1/chat/completions", "/nowhere"):
            assert (await anybody.get(path)).status_code == 401
    async with httpx.AsyncClient(base_url=engine.url, headers=engine.headers) as owner:
        for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/invocations", "/tokenize"):
            assert (await owner.post(path, json={"lora_name": "x", "lora_path": "/"})).status_code == 404
        for name in ("../x", "/etc", "..%2Fx", "A" * 64, "0" * 63, "0" * 65, f"{'0' * 64}\n"):
            answer = await owner.post("/v1/completions", json={"model": name, "prompt": "a", "max_tokens": 1})
            assert answer.status_code == 404, name
    assert (_runs(gateway)[-1] / "server.json").stat().st_mode & 0o077 == 0


async def test_the_next_service_finds_the_running_vllm(gateway: Gateway) -> None:
    base = gateway.models["tiny"].base
    known = await gateway.servers.ready(base)
    successor = VllmServers(gateway.settings)
    assert await successor.ready(base) == known
    await successor.aclose()
    assert len(_runs(gateway)) == 1


async def test_a_vllm_that_is_killed_is_started_again_and_the_next_requests_answered(gateway: Gateway) -> None:
    before = await _say(gateway, TUNED)
    killed = _group(gateway)
    os.kill(_api_server(gateway), signal.SIGKILL)
    first, second = await asyncio.gather(_say(gateway, TUNED), _say(gateway, TUNED))
    assert first == second == before
    assert len(_runs(gateway)) == 2
    assert (_runs(gateway)[0] / "log").exists()
    assert not _is_group_alive(killed)  # vLLM's engine is a process of its own, and survives its parent


async def test_a_model_that_cannot_be_loaded_is_a_503_without_the_servers_paths(
    gateway: Gateway, tmp_path: Path
) -> None:
    shutil.copytree(gateway.models["tiny"].base.source, tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    gateway.add(ServedModel("broken", tiny_entry(tmp_path / "broken", "broken"), None))
    with pytest.raises(openai.InternalServerError) as raised:
        await _say(gateway, "broken")
    assert raised.value.status_code == 503
    assert raised.value.code == "model_not_loaded"
    assert str(tmp_path) not in str(raised.value)


def _group(gateway: Gateway) -> int:
    return int((_runs(gateway)[-1] / "pid").read_text())


def _is_group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _api_server(gateway: Gateway) -> int:
    """The only child of the shell that leads the group."""
    group = _group(gateway)
    return int(Path(f"/proc/{group}/task/{group}/children").read_text().split()[0])
