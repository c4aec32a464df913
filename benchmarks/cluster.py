"""`make bench-cluster`: many jobs at once on the API server that KUBECONFIG names, with no kubelet behind it.

The jobs' rows are written straight into the database, checked and queued. Then dispatchers start: the time until every
Kubernetes Job exists is measured. Then this program plays the cluster and the trainers: it writes each job's result
and tells that its Kubernetes Job is complete. At the end every job must have succeeded once, from one Kubernetes Job,
and nothing may be left. API calls are those that the API server itself has counted.

Needs KUBECONFIG, FETTLE_TEST_DATABASE_URL and FETTLE_TEST_S3_ENDPOINT with AWS_*.
"""

import argparse
import collections
import json
import os
import platform
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import kubernetes
import psycopg
import sqlalchemy as sa
import urllib3
import yaml
from boto3.session import Session
from botocore.config import Config

from benchmarks.counting_dispatcher import running_dispatcher
from service.database.tables import FileRow, JobRow
from service.ids import new_file_id, new_job_id
from service.projects.repository import DEFAULT_PROJECT_ID
from tuning.contract import METRICS_CSV_NAME, RESULT_NAME, JobResult
from tuning.data.receipt import DataReceipt

RESULT = Path(__file__).parent / "results" / "cluster.json"
PREFIX = "fettle"
MOST_SECONDS = 900
_REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_COUNTED = {"jobs", "pods", "events"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--dispatchers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args()
    kubernetes.config.load_kube_config()
    report = {
        "jobs": asked.jobs,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "kubernetes": kubernetes.client.VersionApi().get_code().git_version,
        "runs": [measure(asked.jobs, count) for count in asked.dispatchers],
    }
    asked.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def measure(jobs: int, dispatchers: int) -> dict[str, Any]:
    with ExitStack() as stack:
        namespace = stack.enter_context(_namespace())
        bucket = stack.enter_context(_bucket())
        database_url = stack.enter_context(_database())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = _settings(folder, namespace, bucket.name, database_url)
        with running_dispatcher(settings | {"max_running_jobs": 0, "data_dir": str(folder / "first")}):
            pass  # it makes the tables
        engine = sa.create_engine(database_url)
        job_ids = _fill(engine, jobs)
        made = stack.enter_context(_made_jobs(namespace))
        before = _api_calls()
        started = time.perf_counter()
        running = [
            stack.enter_context(running_dispatcher(settings | {"data_dir": str(folder / str(number))}))
            for number in range(dispatchers)
        ]
        is_running = time.perf_counter()
        _wait(lambda: len(made) >= jobs, "not every job was started")
        all_started = time.perf_counter()
        _wait(lambda: _count(engine, JobRow.launched_at.is_not(None)) == jobs, "not every start was written down")
        memory = [each.memory_mib("VmRSS") for each in running]
        _play_cluster(engine, namespace, bucket)
        played = time.perf_counter()
        _wait(lambda: _count(engine, JobRow.status == "succeeded") == jobs, "not every job succeeded")
        ended = time.perf_counter()
        batch = kubernetes.client.BatchV1Api()
        _wait(lambda: not batch.list_namespaced_job(namespace, limit=1).items, "Kubernetes Jobs stayed")
        return {
            "dispatchers": dispatchers,
            "seconds_until_the_dispatchers_ran": round(is_running - started, 2),
            "seconds_to_start_all": round(all_started - is_running, 2),
            "starts_per_second": round(jobs / (all_started - is_running), 1),
            "seconds_to_end_all": round(ended - played, 2),
            "api_calls_per_job": _per_job(_api_calls() - before, jobs),
            "statements_per_job": round(sum(each.statements for each in running) / jobs, 1),
            "memory_mib_with_all_started": memory,
            "memory_mib_at_most": [each.memory_mib("VmHWM") for each in running],
            "lost": jobs - _count(engine, JobRow.status == "succeeded"),
            "doubled": len(made) - len(set(made) & {f"{job_id.lower()}-1" for job_id in job_ids}),
        }


def _settings(folder: Path, namespace: str, bucket: str, database_url: str) -> dict[str, Any]:
    training = folder / "training.yaml"
    training.write_text(yaml.safe_dump({"namespace": namespace, "image": "nobody/pulls-this:1"}))
    return {
        "role": "dispatcher",
        "ops_port": 0,
        "executor": "kubernetes",
        "kubernetes_file": str(training),
        "database_url": database_url,
        "storage_uri": f"s3://{bucket}/{PREFIX}",
        "s3_endpoint_url": os.environ["FETTLE_TEST_S3_ENDPOINT"],
        "s3_region": os.environ.get("AWS_REGION", "us-east-1"),
        "serving": "off",
        "max_running_jobs": 1_000_000,
    }


def _fill(engine: sa.Engine, jobs: int) -> list[str]:
    """Queued jobs, as validation leaves them."""
    now, file_id = time.time(), new_file_id()
    job_ids = [new_job_id() for _ in range(jobs)]
    receipt = DataReceipt(
        rows=10,
        trained_rows=10,
        tokens=100,
        supervised_tokens=50,
        longest_row_tokens=10,
        cut_rows=(),
        total_cut_rows=0,
        dropped_rows=(),
        total_dropped_rows=0,
        template_sha256="0" * 64,
        max_length=1024,
        sha256="0" * 64,
    ).model_dump(mode="json")
    with engine.begin() as connection:
        connection.execute(sa.insert(FileRow), [_file(file_id, now)])
        connection.execute(sa.insert(JobRow), [_job(job_id, file_id, receipt, now) for job_id in job_ids])
    return job_ids


def _file(file_id: str, now: float) -> dict[str, Any]:
    return {
        "id": file_id,
        "project_id": DEFAULT_PROJECT_ID,
        "created_at": now,
        "filename": "rows.jsonl",
        "purpose": "fine-tune",
        "bytes": 1000,
        "sha256": "0" * 64,
    }


def _job(job_id: str, file_id: str, receipt: dict[str, Any], now: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "project_id": DEFAULT_PROJECT_ID,
        "created_at": now,
        "status": "queued",
        "model": "fettle-tiny",
        "base_model": "fettle-tiny",
        "model_name": f"ft:fettle-tiny:fettle::{job_id[-8:]}",
        "training_file": file_id,
        "training_receipt": receipt,
        "seed": 1,
        "method_type": "supervised",
        "hyperparameters": {"n_epochs": 3, "batch_size": 8, "learning_rate_multiplier": 1.0},
        "integrations": [],
        "result_files": [],
    }


def _play_cluster(engine: sa.Engine, namespace: str, bucket: Any) -> None:
    """Every trainer has finished, and its pod too."""
    batch = kubernetes.client.BatchV1Api()
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    status = {
        "succeeded": 1,
        "startTime": now,
        "completionTime": now,
        "conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": now}],
    }
    with engine.connect() as connection:
        rows = connection.execute(sa.select(JobRow.id, JobRow.attempt, JobRow.execution)).all()

    def finish(row: Any) -> None:
        prefix = f"{PREFIX}/jobs/{row.id}/attempts/{row.attempt}"
        result = JobResult(
            job_id=row.id, attempt=row.attempt, error=None, adapter_sha256="0" * 64, trained_tokens=10, steps=1
        )
        bucket.Object(f"{prefix}/{METRICS_CSV_NAME}").put(Body=b"step,train_loss\n1,0.5\n")
        bucket.Object(f"{prefix}/{RESULT_NAME}").put(Body=result.model_dump_json().encode())
        batch.patch_namespaced_job_status(row.execution.lower(), namespace, {"status": status})

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(finish, rows))


@contextmanager
def _made_jobs(namespace: str) -> Iterator[list[str]]:
    """The names of all Kubernetes Jobs made so far, each as often as it was made."""
    made: list[str] = []
    watch = kubernetes.watch.Watch()

    def follow() -> None:
        stream = watch.stream(kubernetes.client.BatchV1Api().list_namespaced_job, namespace)
        with suppress(urllib3.exceptions.HTTPError):  # the end of the watch, when nobody waits for it any more
            made.extend(each["raw_object"]["metadata"]["name"] for each in stream if each["type"] == "ADDED")

    threading.Thread(target=follow, daemon=True).start()
    yield made
    watch.stop()


def _api_calls() -> collections.Counter[str]:
    """By the API server's own count; without those of `_play_cluster` and of the garbage collector."""
    client = kubernetes.client.ApiClient()
    text = client.call_api("GET", f"{client.configuration.host}/metrics").read().decode()
    calls: collections.Counter[str] = collections.Counter()
    for labels, value in _REQUESTS.findall(text):
        label = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if label["resource"] in _COUNTED and label.get("subresource") != "status":
            path = "/".join(filter(None, (label["resource"], label["subresource"])))
            calls[f"{label['verb']} {path}"] += int(float(value))
    return calls


def _per_job(calls: collections.Counter[str], jobs: int) -> dict[str, float]:
    each = {name: round(count / jobs, 3) for name, count in sorted(calls.items())}
    return {"all": round(sum(calls.values()) / jobs, 2), **each}


def _count(engine: sa.Engine, condition: sa.ColumnElement[bool]) -> int:
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(JobRow).where(condition)) or 0


def _wait(is_true: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + MOST_SECONDS
    while not is_true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{otherwise} in {MOST_SECONDS} s")
        time.sleep(0.2)


@contextmanager
def _namespace() -> Iterator[str]:
    core, name = kubernetes.client.CoreV1Api(), f"fettle-bench-{uuid4().hex[:8]}"
    core.create_namespace({"metadata": {"name": name}})
    yield name
    kubernetes.client.BatchV1Api().delete_collection_namespaced_job(name)
    core.delete_namespace(name)


@contextmanager
def _bucket() -> Iterator[Any]:
    s3 = Session().resource(
        "s3", endpoint_url=os.environ["FETTLE_TEST_S3_ENDPOINT"], config=Config(s3={"addressing_style": "path"})
    )
    bucket = s3.Bucket(f"fettle-bench-{uuid4().hex}")
    bucket.create()
    yield bucket
    bucket.objects.all().delete()
    bucket.delete()


@contextmanager
def _database() -> Iterator[str]:
    url, name = os.environ["FETTLE_TEST_DATABASE_URL"], f"bench_{uuid4().hex[:8]}"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield f"{url.rsplit('/', 1)[0]}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


if __name__ == "__main__":
    main()
