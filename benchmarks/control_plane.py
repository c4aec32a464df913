"""`make bench-control-plane`: how long the API takes, and how many SQL statements, on a full database.

Times are those of one client that asks one thing after another. What counts is the ratio to a database that holds one
page of everything: it gives the same answers.
PostgreSQL is measured where FETTLE_TEST_DATABASE_URL names one.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import sqlalchemy as sa

from benchmarks.counting_service import STATEMENTS_HEADER, running_service
from benchmarks.rows import Counts, fill

ONE_PAGE = Counts(jobs=100, events=1000, files=200)
"""As many as the calls below ask for at once, filters included; ten events a job, as on the full database."""

WARM_UP_CALLS = 10

RESULT = Path(__file__).parent / "results" / "control_plane.json"


@dataclass(frozen=True)
class Call:
    name: str
    ask: Callable[[httpx.Client], httpx.Response]


@dataclass(frozen=True)
class Timing:
    p50_ms: float
    p95_ms: float
    statements: int
    """The most that any of the calls took."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=300, help="calls of each kind")
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args()
    report = measure(Counts(asked.jobs, asked.events, asked.files), asked.repeat)
    asked.output.parent.mkdir(exist_ok=True)
    asked.output.write_text(json.dumps(report, indent=1) + "\n")
    print_report(report)


def measure(counts: Counts, repeat: int) -> dict[str, Any]:
    report: dict[str, Any] = {
        "counts": counts._asdict(),
        "calls_of_each_kind": repeat,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "databases": {},
    }
    for name, database in (("sqlite", _sqlite), ("postgresql", _postgresql)):
        with database() as urls:
            if urls is None:
                continue
            small_url, full_url = urls
            report["databases"][name] = _compare(small_url, full_url, counts, repeat)
    return report


def print_report(report: dict[str, Any]) -> None:
    print(f"{report['counts']}, {report['calls_of_each_kind']} calls of each kind; milliseconds")
    print(f"{'':34}{'1 page p50':>11}{'p95':>8}{'full p50':>11}{'p95':>8}{'ratio':>8}{'statements':>12}")
    for database, calls in report["databases"].items():
        for name, call in calls.items():
            small, full = call["one_page"], call["full"]
            statements = f"{small['statements']} / {full['statements']}"
            print(
                f"{database + ' ' + name:34}{small['p50_ms']:11.2f}{small['p95_ms']:8.2f}"
                f"{full['p50_ms']:11.2f}{full['p95_ms']:8.2f}{call['p95_ratio']:8.2f}{statements:>12}"
            )


def _compare(small_url: str, full_url: str, counts: Counts, repeat: int) -> dict[str, Any]:
    """By turns, so that whatever else the machine does slows both."""
    with _filled_service(small_url, ONE_PAGE) as small, _filled_service(full_url, counts) as full:
        names = [call.name for call in _calls(*small.ids)]
        pairs = zip(_calls(*small.ids), _calls(*full.ids), strict=True)
        timings = [
            _time_by_turns([(small.client, of_small), (full.client, of_full)], repeat) for of_small, of_full in pairs
        ]
    return {
        name: {
            "one_page": vars(of_small),
            "full": vars(of_full),
            "p95_ratio": round(of_full.p95_ms / of_small.p95_ms, 2),
        }
        for name, (of_small, of_full) in zip(names, timings, strict=True)
    }


@dataclass(frozen=True)
class _FilledService:
    client: httpx.Client
    ids: tuple[str, str]
    """Of a job and of a file."""


@contextmanager
def _filled_service(url: str, counts: Counts) -> Iterator[_FilledService]:
    with tempfile.TemporaryDirectory() as folder:
        settings = {"database_url": url, "data_dir": folder, "serving": "off"}
        with running_service(settings):
            pass  # it makes the tables
        ids = fill(sa.create_engine(url.replace("+aiosqlite", "")), counts)
        with running_service(settings) as client:
            yield _FilledService(client, ids)


def _calls(job_id: str, file_id: str) -> Iterator[Call]:
    new_job = {"model": "fettle-tiny", "training_file": file_id, "metadata": {"run": "1"}}
    jobs = "/v1/fine_tuning/jobs"
    yield Call("jobs: list", lambda client: client.get(jobs))
    yield Call("jobs: list after", lambda client: client.get(jobs, params={"after": job_id}))
    yield Call("jobs: list by metadata", lambda client: client.get(jobs, params={"metadata[number]": "0"}))
    yield Call("jobs: retrieve", lambda client: client.get(f"{jobs}/{job_id}"))
    yield Call("jobs: events", lambda client: client.get(f"{jobs}/{job_id}/events"))
    yield Call("jobs: create", lambda client: client.post(jobs, json=new_job))
    yield Call("files: list 100", lambda client: client.get("/v1/files", params={"limit": 100}))
    yield Call(
        "files: list by purpose", lambda client: client.get("/v1/files", params={"limit": 100, "purpose": "batch"})
    )
    yield Call("files: retrieve", lambda client: client.get(f"/v1/files/{file_id}"))
    upload, purpose = {"file": ("rows.jsonl", b"{}\n")}, {"purpose": "fine-tune"}
    yield Call("files: create", lambda client: client.post("/v1/files", files=upload, data=purpose))


def _time_by_turns(calls: Sequence[tuple[httpx.Client, Call]], repeat: int) -> list[Timing]:
    times: list[list[float]] = [[] for _ in calls]
    statements = [0 for _ in calls]
    for turn in range(-WARM_UP_CALLS, repeat):
        for index, (client, call) in enumerate(calls):
            started = time.perf_counter()
            answer = call.ask(client)
            took = 1000 * (time.perf_counter() - started)
            answer.raise_for_status()
            if turn >= 0:
                times[index].append(took)
                statements[index] = max(statements[index], int(answer.headers[STATEMENTS_HEADER]))
    return [
        Timing(round(statistics.median(taken), 3), round(statistics.quantiles(taken, n=20)[-1], 3), most)
        for taken, most in zip(times, statements, strict=True)
    ]


@contextmanager
def _sqlite() -> Iterator[tuple[str, str] | None]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"sqlite+aiosqlite:///{folder}/small.db", f"sqlite+aiosqlite:///{folder}/full.db"


@contextmanager
def _postgresql() -> Iterator[tuple[str, str] | None]:
    url = os.environ.get("FETTLE_TEST_DATABASE_URL")
    if not url:
        print("PostgreSQL is not measured: FETTLE_TEST_DATABASE_URL names none")
        yield None
        return
    names = [f"bench_{uuid4().hex[:8]}_{which}" for which in ("small", "full")]
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for name in names:
            connection.execute(f"CREATE DATABASE {name}".encode())
        yield tuple(f"{url.rsplit('/', 1)[0]}/{name}" for name in names)  # type: ignore[misc]
        for name in names:
            connection.execute(f"DROP DATABASE {name}".encode())


if __name__ == "__main__":
    main()
