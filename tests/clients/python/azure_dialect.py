"""`AzureOpenAI` of any version: `/openai`, `api-version`, the header `api-key`, deployments. Arguments: the server's
address, a JSONL file and a model that may be asked."""

import os
import sys
from pathlib import Path

import openai
from openai import AzureOpenAI, OpenAI

KEY = os.environ.pop("OPENAI_API_KEY")
os.environ.pop("OPENAI_BASE_URL")  # AzureOpenAI refuses to be told both


def main(server: str, rows: Path, model: str) -> None:
    options = {"api_key": KEY, "max_retries": 0, "timeout": 120, "_strict_response_validation": True}
    azure = AzureOpenAI(azure_endpoint=server, api_version="2025-04-01-preview", **options)
    files_and_jobs(azure, rows)
    chat(azure, model)

    deployment = AzureOpenAI(azure_endpoint=server, azure_deployment=model, api_version="2025-04-01-preview", **options)
    files_and_jobs(deployment, rows)
    chat(deployment, model)

    newer = OpenAI(base_url=f"{server}/openai/v1", **options)  # Azure's way since August 2025
    files_and_jobs(newer, rows)
    chat(newer, model)
    print(f"AzureOpenAI {openai.__version__}: all is well")


def files_and_jobs(client: OpenAI, rows: Path) -> None:
    file = client.files.create(file=rows, purpose="fine-tune")
    assert client.files.retrieve(file.id).status == "processed"
    job = client.fine_tuning.jobs.create(
        model="fettle-tiny", training_file=file.id, suffix="azure", extra_body={"trainingType": "developerTier"}
    )
    assert client.fine_tuning.jobs.retrieve(job.id).id == job.id
    assert job.id in [listed.id for listed in client.fine_tuning.jobs.list(limit=1)]
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    assert f"Created fine-tuning job: {job.id}" in messages, messages
    assert list(client.fine_tuning.jobs.checkpoints.list(job.id)) == []
    assert "fettle-tiny" in [model.id for model in client.models.list()]
    assert client.files.delete(file.id).deleted
    try:
        client.files.retrieve(file.id)
    except openai.NotFoundError as error:
        assert error.param == "id", error
    else:
        raise AssertionError("a deleted file is still there")


def chat(client: OpenAI, model: str) -> None:
    question = {"model": model, "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 8, "temperature": 0}
    answer = client.chat.completions.create(**question)
    assert answer.model == model, answer
    chunks = client.chat.completions.create(**question, stream=True)
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert streamed == answer.choices[0].message.content, (streamed, answer)
    assert client.completions.create(model=model, prompt="Hello", max_tokens=4).choices


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
