"""What is refused when a job is created: each with the field, the limit and OpenAI's words."""

from typing import Any

import httpx
import pytest

from tests.fixtures.refusals import refused_job
from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService

MODEL = "fettle-tiny"


@pytest.fixture(scope="module")
def training_file(service: RunningService) -> str:
    return service.upload(to_jsonl(chat_rows(12)))


def test_an_unknown_model_is_refused_with_the_models_there_are(service: RunningService, training_file: str) -> None:
    error = refused_job(service, model="gpt-17", training_file=training_file)
    assert error["message"].startswith("Model gpt-17 is not available for fine-tuning or does not exist.")
    assert MODEL in error["message"]
    assert (error["param"], error["code"]) == ("model", "model_not_available")


@pytest.mark.parametrize("model", ["../fettle-tiny", "/etc", "meta-llama/Llama-3.2-1B", "./base_models/fettle-tiny"])
def test_a_path_or_repository_is_never_a_model(service: RunningService, training_file: str, model: str) -> None:
    assert refused_job(service, model=model, training_file=training_file)["code"] == "model_not_available"


@pytest.mark.parametrize("file_id", ["", "rows.jsonl", "file-../../etc/passwd", "file-short", "file-" + "ä" * 22])
def test_a_malformed_file_id_is_refused_job(service: RunningService, file_id: str) -> None:
    error = refused_job(service, model=MODEL, training_file=file_id)
    assert (error["message"], error["param"]) == ("invalid training_file: Invalid File Name", "training_file")


def test_a_file_that_does_not_exist_is_refused_job(service: RunningService, training_file: str) -> None:
    absent = "file-" + "0" * 22
    assert absent in refused_job(service, model=MODEL, training_file=absent)["message"]
    error = refused_job(service, model=MODEL, training_file=training_file, validation_file=absent)
    assert error["param"] == "validation_file"


def test_a_deleted_file_is_refused_job(service: RunningService) -> None:
    deleted = service.upload(to_jsonl(chat_rows(10)))
    service.client.files.delete(deleted)
    assert "was deleted" in refused_job(service, model=MODEL, training_file=deleted)["message"]


def test_a_file_with_another_purpose_is_refused_job(service: RunningService) -> None:
    file_id = service.upload(b"{}\n", purpose="batch")
    error = refused_job(service, model=MODEL, training_file=file_id)
    assert "purpose 'batch'" in error["message"]
    assert "fine-tune" in error["message"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_epochs", -42, "-42 is less than the minimum of 1 - 'n_epochs'"),
        ("n_epochs", 51, "51 is greater than the maximum of 50 - 'n_epochs'"),
        ("n_epochs", 1.5, "n_epochs"),
        ("n_epochs", "many", "'auto'"),
        ("n_epochs", True, "n_epochs"),
        ("batch_size", 0, "0 is less than the minimum of 1 - 'batch_size'"),
        ("batch_size", 257, "257 is greater than the maximum of 256 - 'batch_size'"),
        ("learning_rate_multiplier", 0, "0 is less than or equal to the minimum of 0 - 'learning_rate_multiplier'"),
        ("learning_rate_multiplier", "0.1", "'auto'"),
        ("warmup", 3, "Unknown parameter: 'warmup'."),
    ],
)
@pytest.mark.parametrize("place", ["hyperparameters", "method"])
def test_hyperparameters_out_of_range_or_type_are_refused(
    service: RunningService, training_file: str, place: str, name: str, value: object, message: str
) -> None:
    given = {name: value}
    body = {"hyperparameters": given}
    if place == "method":
        body = {"method": {"type": "supervised", "supervised": {"hyperparameters": given}}}  # type: ignore[dict-item]
    error = refused_job(service, model=MODEL, training_file=training_file, **body)
    assert message in error["message"]
    assert error["param"].endswith(name)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "model"),
        ({"model": MODEL}, "training_file"),
        ({"suffix": ""}, "suffix"),
        ({"suffix": "x" * 65}, "suffix"),
        ({"suffix": "///"}, "suffix"),
        ({"suffix": "a\0b"}, "suffix"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**31}, "seed"),
        ({"seed": "7"}, "seed"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {str(i): "v" for i in range(17)}}, "metadata"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]}, "integrations"),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"learning_rate": 1}, "learning_rate"),
    ],
)
def test_other_bad_fields_are_refused_by_name(
    service: RunningService, training_file: str, body: dict[str, Any], param: str
) -> None:
    if "model" not in body and body:
        body = {"model": MODEL, "training_file": training_file} | body
    error = refused_job(service, **body)
    assert error["param"].startswith(param)
    assert param.rsplit(".")[-1] in error["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"{}" * 2])
def test_a_body_that_is_no_json_object_is_refused_job(service: RunningService, content: bytes) -> None:
    answer = service.client._client.post(
        f"{service.url}/v1/fine_tuning/jobs", content=content, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("kind", [[], {}, ["dpo"], {"dpo": 1}])
def test_a_method_whose_type_is_no_word_is_refused(service: RunningService, kind: object) -> None:
    body = {"model": "fettle-tiny", "training_file": "file-x", "method": {"type": kind}}
    answer = httpx.post(f"{service.url}/v1/fine_tuning/jobs", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "method.type")
