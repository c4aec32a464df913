"""The error bodies that OpenAI's clients and scripts know by heart, and each status as their real client reads it."""

from typing import Any

import httpx2
import openai
import pytest

from service.errors import (
    ApiError,
    AuthenticationError,
    Conflict,
    HeadersTooLarge,
    InsufficientStorage,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
    RangeNotSatisfiable,
    TooManyRequests,
    Unavailable,
    UpstreamFailed,
    render,
    render_crash,
)
from tests.fixtures.projects import GuardedService, Organization

UNKNOWN_FILE = "file-" + "a" * 22


def job_error(organization: Organization, **fields: Any) -> openai.APIStatusError:
    client = organization.client_of(organization.project_id)
    with pytest.raises(openai.APIStatusError) as error:
        client.fine_tuning.jobs.create(**({"model": "fettle-tiny", "training_file": UNKNOWN_FILE} | fields))
    return error.value


def body_of(error: openai.APIStatusError) -> dict[str, Any]:
    assert isinstance(error.body, dict)
    assert set(error.body) == {"message", "type", "param", "code"}
    return error.body


def test_a_bad_file_id(organization: Organization) -> None:
    error = job_error(organization, training_file="not-a-file")
    assert (error.status_code, body_of(error)) == (
        400,
        {
            "message": "invalid training_file: Invalid File Name",
            "type": "invalid_request_error",
            "param": "training_file",
            "code": None,
        },
    )


def test_a_model_that_is_not_tunable(organization: Organization) -> None:
    error = job_error(organization, model="gpt-4o")
    body = body_of(error)
    assert error.status_code == 400
    assert body["message"].startswith("Model gpt-4o is not available for fine-tuning or does not exist.")
    assert (body["type"], body["code"]) == ("invalid_request_error", "model_not_available")


def test_a_purpose_that_does_not_exist(organization: Organization) -> None:
    client = organization.client_of(organization.project_id)
    with pytest.raises(openai.BadRequestError) as error:
        client.files.create(file=b"{}\n", purpose="x")  # type: ignore[arg-type]
    body = body_of(error.value)
    assert body["message"].startswith("'x' is not one of ['fine-tune', ")
    assert body["message"].endswith("] - 'purpose'")
    assert (body["type"], body["param"]) == ("invalid_request_error", "purpose")


def test_a_number_below_its_range(organization: Organization) -> None:
    for fields in (
        {"hyperparameters": {"n_epochs": -42}},
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": -42}}}},
    ):
        error = job_error(organization, **fields)
        assert (error.status_code, body_of(error)["message"]) == (
            400,
            "-42 is less than the minimum of 1 - 'n_epochs'",
        )


def test_a_wrong_key(guarded_service: GuardedService) -> None:
    with pytest.raises(openai.AuthenticationError) as error:
        guarded_service.client_with("sk-wrong-key-of-nobody").models.list()
    body = body_of(error.value)
    assert body["message"].startswith("Incorrect API key provided: ")
    assert (body["type"], body["code"]) == ("invalid_request_error", "invalid_api_key")


def test_a_file_that_does_not_exist(organization: Organization) -> None:
    client = organization.client_of(organization.project_id)
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError) as error:
            call(UNKNOWN_FILE)
        assert body_of(error.value) == {
            "message": f"No such File object: {UNKNOWN_FILE}",
            "type": "invalid_request_error",
            "param": "id",
            "code": None,
        }


def test_a_model_that_does_not_exist(organization: Organization) -> None:
    client = organization.client_of(organization.project_id)
    for call in (client.models.retrieve, client.models.delete):
        with pytest.raises(openai.NotFoundError) as error:
            call("ft:fettle-tiny:fettle::12345678")
        assert body_of(error.value) == {
            "message": "The model 'ft:fettle-tiny:fettle::12345678' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }


def test_a_url_that_does_not_exist(organization: Organization) -> None:
    client = organization.client_of(organization.project_id)
    with pytest.raises(openai.NotFoundError) as error:
        client.get("/nothing", cast_to=object)
    assert body_of(error.value)["message"] == "Invalid URL (GET /v1/nothing)"


EVERY_ERROR: list[tuple[ApiError, type[openai.APIStatusError], bool]] = [
    (InvalidRequest("m", param="p", code="c"), openai.BadRequestError, False),
    (AuthenticationError("m"), openai.AuthenticationError, False),
    (PermissionDenied("m"), openai.PermissionDeniedError, False),
    (NotFound("m"), openai.NotFoundError, False),
    (MethodNotAllowed("m"), openai.APIStatusError, False),
    (Conflict("m"), openai.ConflictError, False),
    (PayloadTooLarge("m"), openai.APIStatusError, False),
    (RangeNotSatisfiable(5), openai.APIStatusError, False),
    (TooManyRequests("m", retry_after_seconds=1), openai.RateLimitError, True),
    (HeadersTooLarge("m"), openai.APIStatusError, False),
    (InsufficientStorage("m"), openai.InternalServerError, False),
    (UpstreamFailed("m"), openai.InternalServerError, True),
    (Unavailable("m", retry_after_seconds=1), openai.InternalServerError, True),
]


def test_every_kind_of_error_is_listed_here() -> None:
    def leaves(kind: type[ApiError]) -> set[type[ApiError]]:
        below = kind.__subclasses__()
        return {kind} if not below else set().union(*map(leaves, below))

    assert {type(error) for error, _, _ in EVERY_ERROR} == leaves(ApiError)


@pytest.mark.parametrize(("error", "kind", "is_retried"), EVERY_ERROR)
def test_the_client_raises_the_right_error_and_retries_only_what_may_change(
    error: ApiError, kind: type[openai.APIStatusError], is_retried: bool
) -> None:
    answer = render(error)
    asked = 0

    def reply(request: Any) -> Any:
        nonlocal asked
        asked += 1
        return httpx2.Response(answer.status_code, headers=dict(answer.headers), content=bytes(answer.body))

    client = openai.OpenAI(
        api_key="any",
        base_url="http://fettle/v1",
        max_retries=1,
        http_client=httpx2.Client(transport=httpx2.MockTransport(reply)),
    )
    with pytest.raises(openai.APIStatusError) as raised:
        client.models.list()
    assert type(raised.value) is kind
    assert raised.value.status_code == error.status
    assert body_of(raised.value) == error.body["error"]
    assert asked == (2 if is_retried else 1)


def test_a_crash_is_an_error_of_the_server() -> None:
    answer = render_crash()
    reply = httpx2.MockTransport(lambda _: httpx2.Response(answer.status_code, content=bytes(answer.body)))
    client = openai.OpenAI(
        api_key="any", base_url="http://fettle/v1", max_retries=0, http_client=httpx2.Client(transport=reply)
    )
    with pytest.raises(openai.InternalServerError) as raised:
        client.models.list()
    assert body_of(raised.value)["type"] == "server_error"
