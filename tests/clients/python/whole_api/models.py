"""Models: listed, looked at and deleted."""

import openai
from strict import client, refused


def check(tuned: str) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert {"fettle-tiny", tuned, f"{tuned}:ckpt-step-3"} <= set(listed), listed
    assert client.models.retrieve(tuned) == listed[tuned]
    assert client.models.delete(tuned).deleted
    refusal = refused(openai.NotFoundError, lambda: client.models.retrieve(tuned))
    assert (refusal["code"], refusal["param"]) == ("model_not_found", "model"), refusal
