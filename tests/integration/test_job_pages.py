"""Whoever walks through a list sees each object exactly once, whatever is added meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.rows import chat_rows, to_jsonl
from tests.fixtures.service import RunningService


def create_job(service: RunningService, file_id: str, run: str) -> str:
    job = service.client.fine_tuning.jobs.create(model="fettle-tiny", training_file=file_id, metadata={"run": run})
    return job.id


@pytest.mark.parametrize("limit", [1, 4])
def test_a_walk_through_jobs_sees_each_once_while_others_are_made(service: RunningService, limit: int) -> None:
    run, stop = uuid4().hex, Event()
    file_id = service.upload(to_jsonl(chat_rows(3)))  # too few rows: the jobs fail and train nothing
    before = [create_job(service, file_id, run) for _ in range(5)]

    def go_on_creating() -> int:
        made = 0
        while not stop.is_set() and made < 20:  # each starts a process that checks its file
            create_job(service, file_id, run)
            made += 1
        return made

    with ThreadPoolExecutor() as threads:
        creating = threads.submit(go_on_creating)
        try:
            for _ in range(2):
                walked = [job.id for job in service.client.fine_tuning.jobs.list(limit=limit, metadata={"run": run})]
                assert len(walked) == len(set(walked))
                assert walked[-len(before) :] == before[::-1]
        finally:
            stop.set()
        assert creating.result() > 0


def test_events_are_walked_exactly_once_and_in_order(service: RunningService) -> None:
    job_id = create_job(service, service.upload(to_jsonl(chat_rows(3))), uuid4().hex)
    service.wait_for_job(job_id)
    whole = [event.id for event in service.client.fine_tuning.jobs.list_events(job_id, limit=100)]
    for limit in (1, 2, len(whole), len(whole) + 1):
        walked = [event.id for event in service.client.fine_tuning.jobs.list_events(job_id, limit=limit)]
        assert walked == whole
    assert service.client.fine_tuning.jobs.list_events(job_id, limit=100).data[-1].message.startswith("Created")


def test_a_page_that_ends_the_list_says_so(service: RunningService) -> None:
    run = uuid4().hex
    file_id = service.upload(to_jsonl(chat_rows(3)))
    newest_first = [create_job(service, file_id, run) for _ in range(4)][::-1]
    url = f"{service.url}/v1/fine_tuning/jobs?metadata[run]={run}"
    for limit, has_more in ((3, True), (4, False), (5, False), (0, False)):
        page = httpx.get(f"{url}&limit={limit}").json()
        assert [job["id"] for job in page["data"]] == newest_first[:limit]
        assert page["has_more"] is has_more
    for after in ("ftjob-" + "a" * 24, "nonsense", newest_first[-1]):
        page = httpx.get(f"{url}&after={after}").json()
        assert (page["data"], page["has_more"]) == ([], False)
