"""LiteLLM, told `api_base` and nothing else: files, jobs, and chat through the tuned name. Argument: a JSONL file."""

import os
import sys
import time
from pathlib import Path

import litellm

SERVER = {"api_base": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
OPENAI = SERVER | {"custom_llm_provider": "openai"}
QUESTION = [{"role": "user", "content": "What is 3 plus one?"}]


def main(rows: Path) -> None:
    content = rows.read_bytes()
    file = litellm.create_file(file=(rows.name, content), purpose="fine-tune", **OPENAI)
    assert litellm.file_retrieve(file.id, **OPENAI).bytes == len(content)
    assert litellm.file_content(file.id, **OPENAI).content == content
    assert file.id in [listed.id for listed in litellm.file_list(**OPENAI)]

    job = create_job(file.id, hyperparameters={"n_epochs": 1}, suffix="litellm")
    unwanted = create_job(file.id)  # LiteLLM then sends `hyperparameters: {}`
    assert litellm.cancel_fine_tuning_job(fine_tuning_job_id=unwanted.id, **OPENAI).status == "cancelled"
    newest_first = [listed.id for listed in litellm.list_fine_tuning_jobs(limit=2, **OPENAI).data]
    assert newest_first == [unwanted.id, job.id], newest_first
    job = ended(job.id)
    assert job.status == "succeeded", job

    chat(f"openai/{job.fine_tuned_model}")
    assert litellm.file_delete(file.id, **OPENAI).deleted
    print("litellm: all is well")


def create_job(file_id: str, **options: object) -> litellm.LiteLLMFineTuningJob:
    job = litellm.create_fine_tuning_job(model="fettle-tiny", training_file=file_id, **options, **OPENAI)
    assert (job.status, job.training_file) == ("validating_files", file_id), job
    return job


def ended(job_id: str) -> litellm.LiteLLMFineTuningJob:
    deadline = time.monotonic() + 240
    while True:
        job = litellm.retrieve_fine_tuning_job(fine_tuning_job_id=job_id, **OPENAI)
        if job.status in ("succeeded", "failed", "cancelled"):
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.5)


def chat(model: str) -> None:
    answer = litellm.completion(model=model, messages=QUESTION, max_tokens=8, temperature=0, **SERVER)
    assert answer.usage.completion_tokens <= 8, answer
    stream = litellm.completion(model=model, messages=QUESTION, max_tokens=8, temperature=0, stream=True, **SERVER)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert streamed == answer.choices[0].message.content, (streamed, answer)
    try:
        litellm.completion(model=f"{model}-not", messages=QUESTION, **SERVER)
    except litellm.NotFoundError as error:
        assert "does not exist" in str(error), error
    else:
        raise AssertionError("a model that does not exist has answered")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
