"""Whoever walks through the files sees each that stays exactly once, whatever is added and deleted meanwhile."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Event
from typing import Literal

import httpx
import openai
import pytest

from tests.fixtures.service import RunningService


@contextmanager
def others_come_and_go(service: RunningService) -> Iterator[None]:
    """During the whole block, three threads upload files and delete every second one."""
    has_begun, is_over = Barrier(4), Event()

    def come_and_go() -> None:
        has_begun.wait(60)
        while not is_over.is_set():
            service.upload(b"{}\n", purpose="evals")
            service.client.files.delete(service.upload(b"{}\n", purpose="evals"))

    with ThreadPoolExecutor() as threads:
        running = [threads.submit(come_and_go) for _ in range(3)]
        has_begun.wait(60)
        try:
            yield
        finally:
            is_over.set()
        for each in running:
            each.result()


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 3, 10_000])
def test_a_walk_sees_each_file_once_while_others_come_and_go(
    service: RunningService, order: Literal["asc", "desc"], limit: int
) -> None:
    stay = [service.upload(b"{}\n", purpose="evals") for _ in range(6)]
    if order == "asc":  # from the file before the first of them, or the walk would begin with those of other tests
        older = service.client.files.list(after=stay[0], limit=1).data
    last = stay[-1] if order == "asc" else stay[0]
    with others_come_and_go(service):
        for _ in range(2):
            walked = []
            after = older[0].id if order == "asc" and older else openai.omit
            for file in service.client.files.list(order=order, limit=limit, purpose="evals", after=after):
                walked.append(file.id)
                if file.id == last:
                    break
            assert len(walked) == len(set(walked))
            seen = [file_id for file_id in walked if file_id in stay]
            assert seen == (stay if order == "asc" else stay[::-1])


def test_a_walk_that_deletes_what_it_saw_comes_to_the_end(service: RunningService) -> None:
    made = [service.upload(b"{}\n", purpose="vision") for _ in range(7)]
    deleted = []
    for file in service.client.files.list(purpose="vision", limit=2, order="asc"):
        service.client.files.delete(file.id)
        deleted.append(file.id)
    assert deleted[-7:] == made
    assert service.client.files.list(purpose="vision").data == []


def test_a_page_names_its_first_and_last_file(service: RunningService) -> None:
    made = [service.upload(b"{}\n", purpose="assistants") for _ in range(3)]
    url = f"{service.url}/v1/files?purpose=assistants"
    page = httpx.get(f"{url}&limit=2").json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", made[2], made[1], True)
    page = httpx.get(f"{url}&limit=0").json()
    assert (page["data"], page["first_id"], page["last_id"], page["has_more"]) == ([], None, None, False)


def test_files_are_told_apart_by_their_purpose(service: RunningService) -> None:
    made = service.upload(b"{}\n", purpose="user_data")
    assert made in [file.id for file in service.client.files.list(purpose="user_data")]
    for other in ("batch", "fine-tune-results", "batch_output", "colour", "' OR 1=1 --"):
        assert made not in [file.id for file in service.client.files.list(purpose=other)]


@pytest.mark.parametrize("query", ["limit=-1", "limit=10001", "limit=x", "order=up", "order="])
def test_a_page_that_cannot_be_is_refused_by_its_parameter(service: RunningService, query: str) -> None:
    answer = httpx.get(f"{service.url}/v1/files?{query}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, query.partition("=")[0])
