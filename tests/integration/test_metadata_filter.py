"""Jobs are found by their metadata: one pair, several, or none at all."""

from uuid import uuid4

import httpx
import pytest
from openai import OpenAI

from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService


def ids(client: OpenAI, **query: object) -> list[str]:
    return [job.id for job in client.fine_tuning.jobs.list(limit=2, **query)]  # type: ignore[arg-type]


def test_pairs_are_all_required_and_walked_page_by_page(service: RunningService) -> None:
    client, run = service.client, uuid4().hex
    file_id = service.upload(to_jsonl(chat_rows(3)))  # too few rows: the jobs fail and train nothing

    def create(metadata: dict[str, str] | None) -> str:
        return client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file_id, metadata=metadata).id

    odd = {"run": run, 'a "quoted" key]': "it's 100 % é 🚀"}
    of_run = [create({"run": run, "n": str(number)}) for number in range(5)] + [create(odd)]
    without = [create(None), create({})]
    assert ids(client, metadata={"run": run}) == of_run[::-1]
    assert ids(client, metadata={"run": run, "n": "3"}) == [of_run[3]]
    assert ids(client, metadata=odd) == [of_run[5]]
    assert ids(client, metadata={"run": run, "n": "9"}) == []
    assert ids(client, metadata={"run": run.upper()}) == []
    none = ids(client, extra_query={"metadata": "null"})
    assert none[:2] == without[::-1] and not set(none) & set(of_run)


@pytest.mark.parametrize("query", ["metadata=all", "metadata=null&metadata[a]=b", "metadata[a]=b&metadata[a]=c"])
def test_a_filter_that_means_nothing_is_refused(service: RunningService, query: str) -> None:
    answer = httpx.get(f"{service.url}/v1/fine_tuning/jobs?{query}")
    assert answer.status_code == 400
    assert "metadata" in answer.json()["error"]["message"]
