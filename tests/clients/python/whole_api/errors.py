"""Errors: each is the SDK's own exception for its status, with a body that it can read."""

import openai
from strict import client, client_with, refused


def check() -> None:
    create = client.fine_tuning.jobs.create
    refusal = refused(openai.BadRequestError, lambda: create(model="fettle-tiny", training_file="nonsense"))
    assert refusal["message"] == "invalid training_file: Invalid File Name", refusal
    assert (refusal["type"], refusal["param"]) == ("invalid_request_error", "training_file"), refusal
    refusal = refused(openai.NotFoundError, lambda: client.get("/no/such/thing", cast_to=object))
    assert refusal["message"] == "Invalid URL (GET /v1/no/such/thing)", refusal
    refusal = refused(openai.AuthenticationError, lambda: client_with("sk-of-somebody-else").models.list())
    assert refusal["code"] == "invalid_api_key", refusal
