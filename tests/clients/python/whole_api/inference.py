"""What a tuned model answers: at once, as a stream, and in a batch."""

import json

from strict import client, wait_for


def check(model: str) -> None:
    question = {"model": model, "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 8, "temperature": 0}
    answer = client.chat.completions.create(**question)
    assert (answer.model, answer.choices[0].message.role) == (model, "assistant"), answer
    chunks = list(client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert streamed == answer.choices[0].message.content, (streamed, answer)
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens <= 8, chunks[-1]
    completion = client.completions.create(model=model, prompt="Hello", max_tokens=4)
    assert completion.choices[0].finish_reason in ("stop", "length"), completion
    _check_batch(question, answer.choices[0].message.content)


def _check_batch(question: dict[str, object], expected: str) -> None:
    request = {"method": "POST", "url": "/v1/chat/completions"}
    lines = [
        request | {"custom_id": "good", "body": question},
        request | {"custom_id": "bad", "body": question | {"max_tokens": -1}},
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    options = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    created = client.batches.create(**options, metadata={"of": "clients"})
    assert (created.status, created.metadata) == ("validating", {"of": "clients"}), created
    batch = wait_for(
        lambda: client.batches.retrieve(created.id), lambda seen: seen.status in ("completed", "failed", "expired")
    )
    assert batch.status == "completed", batch
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (2, 1, 1), batch
    [good] = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert (good["custom_id"], good["error"], good["response"]["status_code"]) == ("good", None, 200), good
    assert good["response"]["body"]["choices"][0]["message"]["content"] == expected, good
    [bad] = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("bad", 400), bad

    unwanted = client.batches.create(**options)
    assert client.batches.cancel(unwanted.id).status in ("cancelling", "cancelled")
    assert [listed.id for listed in client.batches.list(limit=1)][:2] == [unwanted.id, batch.id]
