"""Jobs whose trainers are pods of a real cluster: how they succeed, wait and fail, and how they survive a bad night.

The cluster of CI is a Kubernetes 1.20. Where that lacks what today's have, it says so here: there exit 75 and evictions
count as crashes, and a pod that is being deleted is replaced before it has ended.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kubernetes
import pytest

from tests.fixtures.cluster_service import Cluster, ClusterService, StartClusterService
from tests.fixtures.environment import missing, require_environment
from tests.fixtures.rows import chat_row
from tests.fixtures.service import keep_running, new_database, wait_until

pytestmark = pytest.mark.slow

GPU = "nvidia.com~1gpu"  # as JSON Patch writes it
TRAINING_SECONDS = 240
GRACE_SECONDS = 5  # `cancel_grace` of these services


@pytest.fixture(scope="module")
def service(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterService]:
    data_dir = tmp_path_factory.mktemp("cluster") / "service"
    yield from keep_running(ClusterService(data_dir, cluster, new_database(), {}))  # type: ignore[misc]


def test_a_job_trains_in_a_pod_and_its_adapter_answers_through_vllm(
    cluster: Cluster, start_cluster_service: StartClusterService
) -> None:
    service = start_cluster_service(serving="vllm")
    job_id = service.create()
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", service.describe(job_id)
    assert job.fine_tuned_model is not None
    answer = service.client.chat.completions.create(
        model=job.fine_tuned_model, messages=[{"role": "user", "content": "What is 3 plus one?"}], max_tokens=8
    )
    assert answer.model == job.fine_tuned_model
    wait_until(lambda: not cluster.jobs(job_id) and not cluster.pods(job_id), 60, "its Job or pod stayed")
    messages = service.messages(job_id)
    assert messages.count("Fine-tuning job started") == 1
    assert messages[-1] == "The job has successfully completed"
    log = read_logs(service, job_id)
    assert "done: adapter" in log
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in log


def test_a_job_that_must_fail_is_tried_once(cluster: Cluster, service: ClusterService) -> None:
    """The service checks rows first, so a file is changed behind its back: the trainer finds it, and exits with 64."""
    job_id = service.create(rows=40, n_epochs=1)
    service.wait_for_message(job_id, "moving job to queued state")
    job = service.client.fine_tuning.jobs.retrieve(job_id)
    object_key = f"fettle/files/{job.training_file}"
    cluster.bucket.resource.Object(object_key).put(Body=b"".join(b"%s\n" % row for row in other_rows()))
    ended = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert ended.status == "failed", service.describe(job_id)
    assert ended.error is not None
    assert ended.error.code == "data_changed"
    assert not [message for message in service.messages(job_id) if "starts it again" in message or "attempt" in message]
    wait_until(lambda: not cluster.jobs(job_id) and not cluster.pods(job_id), 60, "its Job or pod stayed")


def test_a_trainer_that_crashes_is_started_again_and_the_job_succeeds(
    cluster: Cluster, service: ClusterService
) -> None:
    job_id = service.create(rows=200, n_epochs=4)
    service.wait_for_step(job_id)
    first = cluster.wait_for_pod(job_id)
    kill_trainer_of(first)
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", service.describe(job_id)
    assert any("137" in message or "SIGKILL" in message or "killed" in message for message in service.messages(job_id))
    assert len(read_log_names(service, job_id)) == 2, "the crashed container's log is kept, too"
    steps = [event.data["step"] for event in service.events(job_id) if event.type == "metrics"]
    assert len(steps) == len(set(steps))


def test_memory_that_runs_out_fails_the_job_with_advice(service: ClusterService) -> None:
    job_id = service.create(resources={"memory": "200Mi"})
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "failed", service.describe(job_id)
    assert job.error is not None
    assert job.error.code == "out_of_memory", service.describe(job_id)
    assert "200Mi" in job.error.message
    assert "batch_size" in job.error.message


def test_a_run_that_takes_too_long_fails_with_the_limit(start_cluster_service: StartClusterService) -> None:
    service = start_cluster_service(training={"activeDeadlineSeconds": 5})
    job_id = service.create_long()
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "failed", service.describe(job_id)
    assert job.error is not None
    assert job.error.code == "deadline_exceeded", service.describe(job_id)
    assert "5" in job.error.message


def test_a_cancelled_job_has_no_pod_after_its_grace_period(cluster: Cluster, service: ClusterService) -> None:
    job_id = service.create_long()
    cluster.wait_for_pod(job_id)
    service.client.fine_tuning.jobs.cancel(job_id)
    wait_until(
        lambda: not cluster.pods(job_id) and not cluster.jobs(job_id), GRACE_SECONDS + 25, "its pod or Job stayed"
    )


def test_a_paused_job_goes_on_from_its_state_in_another_pod(cluster: Cluster, service: ClusterService) -> None:
    job_id = service.create(rows=190, batch_size=1)
    service.wait_for_step(job_id)
    service.client.fine_tuning.jobs.pause(job_id)
    service.wait_for_message(job_id, "paused after the step it was at")
    wait_until(lambda: not cluster.pods(job_id), 60, "the paused job's pod stayed")
    service.client.fine_tuning.jobs.resume(job_id)
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", service.describe(job_id)
    assert any("Training goes on after step" in message for message in service.messages(job_id))


def test_a_job_that_waits_for_a_gpu_says_so_and_runs_when_a_node_has_one(
    cluster: Cluster, service: ClusterService
) -> None:
    job_id = service.create(resources={"gpus": 1})
    told = service.wait_for_message(job_id, "GPU")
    assert "nvidia.com/gpu" in told
    assert service.client.fine_tuning.jobs.retrieve(job_id).status == "queued"
    with_gpus(cluster, "1")
    try:
        job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    finally:
        with_gpus(cluster, None)
    assert job.status == "succeeded", service.describe(job_id)
    assert len([message for message in service.messages(job_id) if message == told]) == 1


def test_a_job_that_no_node_can_ever_run_says_so(cluster: Cluster, start_cluster_service: StartClusterService) -> None:
    service = start_cluster_service(training={"canReadNodes": True})
    job_id = service.create(resources={"memory": "900Ti"})
    told = service.wait_for_message(job_id, "900Ti")
    assert "no node" in told.lower()
    service.client.fine_tuning.jobs.cancel(job_id)


def test_an_image_that_is_not_there_is_told_and_the_job_can_be_cancelled(
    cluster: Cluster, start_cluster_service: StartClusterService
) -> None:
    service = start_cluster_service(training={"image": "localhost/no-such-image:1", "imagePullPolicy": "Never"})
    job_id = service.create()
    service.wait_for_message(job_id, "localhost/no-such-image:1")
    assert service.client.fine_tuning.jobs.retrieve(job_id).status == "queued"
    service.client.fine_tuning.jobs.cancel(job_id)
    wait_until(lambda: not cluster.pods(job_id), 60, "its pod stayed")


def test_an_evicted_pod_is_replaced_and_training_goes_on(cluster: Cluster, service: ClusterService) -> None:
    job_id = service.create(rows=190, n_epochs=2, batch_size=1)
    service.wait_for_step(job_id)
    evict(cluster, cluster.wait_for_pod(job_id).metadata.name)
    job = service.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", service.describe(job_id)
    assert any("Training goes on after step" in message for message in service.messages(job_id)), service.describe(
        job_id
    )


def test_an_api_server_that_dies_costs_nothing_but_time(cluster: Cluster, service: ClusterService) -> None:
    restart = require_environment("FETTLE_TEST_APISERVER_RESTART", "a command that kills and restarts the API server")
    job_id = service.create(rows=190, batch_size=1)
    service.wait_for_step(job_id)
    subprocess.run(restart, shell=True, check=True, timeout=120)
    during = service.create()
    for each in (job_id, during):
        job = service.wait_for_job(each, timeout=TRAINING_SECONDS)
        assert job.status == "succeeded", service.describe(each)
        assert service.messages(each).count("Fine-tuning job started") == 1


def test_another_dispatcher_takes_over_from_a_killed_one(
    cluster: Cluster, start_cluster_service: StartClusterService
) -> None:
    database_url = new_database()
    first = start_cluster_service(database_url)
    job_id = first.create(rows=190, batch_size=1)
    first.wait_for_step(job_id)
    first.kill()
    second = start_cluster_service(database_url)
    job = second.wait_for_job(job_id, timeout=TRAINING_SECONDS)
    assert job.status == "succeeded", second.describe(job_id)
    assert second.messages(job_id).count("Fine-tuning job started") == 1


def test_two_dispatchers_at_once_start_every_job_once(
    cluster: Cluster, start_cluster_service: StartClusterService
) -> None:
    database_url = new_database()
    services = [start_cluster_service(database_url, training={"instance": "two"}) for _ in range(2)]
    seen: dict[str, set[str]] = {}
    job_ids = [services[number % 2].create(rows=10) for number in range(4)]

    def all_ended() -> bool:
        for job_id in job_ids:
            seen.setdefault(job_id, set()).update(pod.metadata.uid for pod in cluster.pods(job_id))
        jobs = {job.id: job.status for job in services[0].client.fine_tuning.jobs.list(limit=100)}
        return all(jobs[job_id] in ("succeeded", "failed", "cancelled") for job_id in job_ids)

    wait_until(all_ended, 2 * TRAINING_SECONDS, "the jobs did not end", lambda: str(seen))
    for job_id in job_ids:
        assert services[1].client.fine_tuning.jobs.retrieve(job_id).status == "succeeded", services[0].describe(job_id)
        messages = services[1].messages(job_id)
        assert messages.count("The job has successfully completed") == 1
        assert messages.count("Fine-tuning job started") == 1
        assert len(seen[job_id]) <= 1


def read_log_names(service: ClusterService, job_id: str) -> list[str]:
    answer: Any = service.client.get(f"/fine_tuning/jobs/{job_id}/logs", cast_to=object)
    return [log["name"] for log in answer["data"]]


def read_logs(service: ClusterService, job_id: str) -> str:
    texts = [
        httpx.get(f"{service.url}/v1/fine_tuning/jobs/{job_id}/logs/{name}").raise_for_status().text
        for name in read_log_names(service, job_id)
    ]
    return "\n".join(texts)


def other_rows() -> list[bytes]:
    return [json.dumps(chat_row(f"Something else {number}?", "No.")).encode() for number in range(40)]


def kill_trainer_of(pod: Any) -> None:
    """From outside, as a bug or the kernel would: the pod's processes run on this machine."""
    uid = pod.metadata.uid
    processes = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit() and belongs_to(folder, uid)]
    if not processes:
        missing("a cluster whose node is this machine")
    for folder in processes:
        os.kill(int(folder.name), signal.SIGKILL)


def belongs_to(process: Path, pod_uid: str) -> bool:
    try:
        return pod_uid in (process / "cgroup").read_text() and b"trainer_image" in (process / "cmdline").read_bytes()
    except OSError:
        return False


def evict(cluster: Cluster, pod: str) -> None:
    """By the path that `kubectl drain` takes. The client knows `policy/v1` only; 1.20 has the version before."""
    body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": pod}}
    version = kubernetes.client.VersionApi().get_code()
    if (int(version.major), int(version.minor.rstrip("+"))) >= (1, 22):
        body["apiVersion"] = "policy/v1"
    client = cluster.core.api_client
    url = f"{client.configuration.host}/api/v1/namespaces/{cluster.namespace}/pods/{pod}/eviction"
    answer = client.call_api("POST", url, header_params={"content-type": "application/json"}, body=body)
    assert answer.status == 201, answer.read()


def with_gpus(cluster: Cluster, count: str | None) -> None:
    """The node's own word for what it has, as a device plugin would give it."""
    node = cluster.core.list_node().items[0].metadata.name
    operation = {"op": "remove"} if count is None else {"op": "add", "value": count}
    cluster.core.patch_node_status(node, [{**operation, "path": f"/status/capacity/{GPU}"}])
