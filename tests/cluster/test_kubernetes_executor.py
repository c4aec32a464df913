"""The executor against a real Kubernetes, whose trainers are shell scripts."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from service.executors.base import ExecutionState, ExecutorUnavailable, Launch
from service.executors.kubernetes import KubernetesExecutor
from service.executors.kubernetes_api import JOBS, KubernetesApi
from service.executors.kubernetes_manifest import execution_of, instance_selector
from service.executors.kubernetes_watch import WatchedObjects
from tests.fixtures.cluster import ShellTrainers, restart_api_server, wait_for, watched
from tests.fixtures.service import wait_until

pytestmark = pytest.mark.slow

WAITS = "while true; do sleep 0.1; done"
ENDS_WHEN_TOLD = f"trap 'exit 75' TERM; {WAITS}"
STUBBORN = f"trap '' TERM; {WAITS}"


@pytest.fixture
async def executor(shell_trainers: ShellTrainers) -> AsyncIterator[KubernetesExecutor]:
    executor = shell_trainers.executor()
    async with watched(executor):
        yield executor


async def logs_of(executor: KubernetesExecutor, launch: Launch) -> dict[str, bytes]:
    return {log.container: b"".join([chunk async for chunk in log.chunks]) async for log in executor.logs(launch.name)}


async def test_a_second_start_finds_the_first(shell_trainers: ShellTrainers, executor: KubernetesExecutor) -> None:
    launch = shell_trainers.launch(ENDS_WHEN_TOLD)
    await asyncio.gather(executor.start(launch), executor.start(launch))
    await executor.start(launch)
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.RUNNING)
    assert len(shell_trainers.pods(launch)) == 1
    await executor.stop(launch.name)


@pytest.mark.parametrize("code", [0, 64, 137])
async def test_an_execution_waits_runs_and_tells_its_exit_code(
    shell_trainers: ShellTrainers, executor: KubernetesExecutor, code: int
) -> None:
    launch = shell_trainers.launch(f"sleep 1; exit {code}")
    await executor.start(launch)
    assert (await executor.observe(launch.name)).state is ExecutionState.PENDING
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.RUNNING)
    ended = await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.EXITED)
    assert ended.exit_code == code
    await executor.stop(launch.name)
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.GONE)


async def test_what_was_never_started_is_gone(shell_trainers: ShellTrainers, executor: KubernetesExecutor) -> None:
    never = shell_trainers.launch("true").name
    assert (await executor.observe(never)).state is ExecutionState.GONE
    await executor.interrupt(never)
    await executor.stop(never)
    assert await executor.log_tail(never) == ""


async def test_an_interrupted_trainer_gets_sigterm_and_the_grace_of_its_pod(
    shell_trainers: ShellTrainers, executor: KubernetesExecutor
) -> None:
    """Not the shorter one of a job that nobody wants any more."""
    evidence = shell_trainers.evidence / uuid4().hex
    script = f"trap 'sleep 5; echo saved > /evidence/{evidence.name}; exit 75' TERM; {WAITS}"
    launch = shell_trainers.launch(script)
    await executor.start(launch)
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.RUNNING)
    began = time.monotonic()
    await executor.interrupt(launch.name)
    assert time.monotonic() - began < 2, "it does not wait"
    await wait_for(executor, launch, lambda execution: execution.state is not ExecutionState.RUNNING)
    assert evidence.read_text() == "saved\n"
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.GONE)
    assert not shell_trainers.pods(launch), "it was started again"


async def test_a_stubborn_trainer_is_killed_after_the_grace(
    shell_trainers: ShellTrainers, executor: KubernetesExecutor
) -> None:
    launch = shell_trainers.launch(STUBBORN)
    await executor.start(launch)
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.RUNNING)
    began = time.monotonic()
    await executor.stop(launch.name)
    assert 3 <= time.monotonic() - began < 30, "its pod alone would wait for a minute"
    assert all(pod.status.phase == "Failed" for pod in shell_trainers.pods(launch))
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.GONE)


async def test_a_stop_shortens_the_grace_of_an_interrupt(
    shell_trainers: ShellTrainers, executor: KubernetesExecutor
) -> None:
    launch = shell_trainers.launch(STUBBORN)
    await executor.start(launch)
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.RUNNING)
    await executor.interrupt(launch.name)
    await asyncio.to_thread(
        wait_until, lambda: bool(shell_trainers.pods(launch)[0].metadata.deletion_timestamp), 10, "not told to end"
    )
    began = time.monotonic()
    await executor.stop(launch.name)
    assert time.monotonic() - began < 30, "an interrupt alone leaves it a minute"
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.GONE)


async def test_the_service_of_several_nodes_goes_with_their_job(
    shell_trainers: ShellTrainers, executor: KubernetesExecutor
) -> None:
    launch = shell_trainers.launch("", nodes=2)
    await executor.start(launch)
    await executor.start(launch)
    services = shell_trainers.core.list_namespaced_service
    assert [found.metadata.name for found in services(shell_trainers.namespace).items] == [launch.name.lower()]
    await executor.stop(launch.name)
    await asyncio.to_thread(
        wait_until, lambda: not services(shell_trainers.namespace).items, 30, "the Service is still there"
    )


async def test_a_job_that_no_node_can_hold_says_so_and_nodes_are_listed_once(shell_trainers: ShellTrainers) -> None:
    executor = shell_trainers.executor(canReadNodes=True, gpuResource="example.com/gpu")
    launch = shell_trainers.launch("true", gpus=16)
    async with watched(executor):
        await executor.start(launch)
        waiting = await wait_for(executor, launch, lambda execution: bool(execution.notes))
        await wait_for(executor, launch, lambda execution: bool(execution.notes))
        assert waiting.state is ExecutionState.PENDING
        assert [note.key for note in waiting.notes] == ["no-node-large-enough"]
        assert executor.calls["list nodes"] == 1
        await executor.stop(launch.name)


async def test_a_cluster_without_job_sets_is_told(shell_trainers: ShellTrainers) -> None:
    executor = shell_trainers.executor(multiNode="JobSet")
    async with watched(executor):
        with pytest.raises(ExecutorUnavailable, match=r"that the cluster knows jobsets\.jobset\.x-k8s\.io"):
            await executor.observe(shell_trainers.launch("").name)


async def test_a_crashed_trainer_is_started_again_and_both_logs_are_there(shell_trainers: ShellTrainers) -> None:
    executor = shell_trainers.executor(backoffLimit=1)
    marker = f"/evidence/{uuid4().hex}"
    script = f"if [ -e {marker} ]; then echo second; exit 0; fi; echo first > {marker}; echo first; exit 1"
    launch = shell_trainers.launch(script)
    async with watched(executor):
        await executor.start(launch)
        ended = await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.EXITED, 90)
        assert ended.exit_code == 0
        assert list((await logs_of(executor, launch)).values()) == [b"first\n", b"second\n"]
        assert await executor.log_tail(launch.name) == "second\n"
        await executor.stop(launch.name)


async def test_a_long_log_is_streamed_and_its_tail_is_short(
    shell_trainers: ShellTrainers, executor: KubernetesExecutor
) -> None:
    # less than 10 MiB as the node stores it: there the kubelet begins a new file, and reads out only that
    launch = shell_trainers.launch("seq -f %080g 1 30000; echo the end")
    await executor.start(launch)
    await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.EXITED)
    async for log in executor.logs(launch.name):
        sizes = [len(chunk) async for chunk in log.chunks]
    assert sum(sizes) == 81 * 30_000 + len("the end\n")
    assert max(sizes) <= 64 * 1024
    tail = await executor.log_tail(launch.name)
    assert tail.endswith("30000\nthe end\n")
    assert len(tail) <= 4000
    await executor.stop(launch.name)


async def test_the_life_of_a_job_takes_at_most_six_calls(shell_trainers: ShellTrainers) -> None:
    executor = shell_trainers.executor()
    async with watched(executor):
        await executor.observe(shell_trainers.launch("").name)  # the watches have begun
        executor.calls.clear()
        launch = shell_trainers.launch("echo done; sleep 1")
        await executor.start(launch)
        await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.EXITED)
        await logs_of(executor, launch)
        await executor.log_tail(launch.name)
        await executor.stop(launch.name)
        for _ in range(100):
            await executor.check()
        calls = {call: count for call, count in executor.calls.items() if not call.startswith("watch ")}
    assert sum(calls.values()) <= 6, calls


async def test_changes_are_told_once_and_every_dispatcher_sees_them(shell_trainers: ShellTrainers) -> None:
    first, second = shell_trainers.executor(), shell_trainers.executor()
    launch = shell_trainers.launch("sleep 1")
    async with watched(first) as told_first, watched(second) as told_second:
        await first.start(launch)
        seen = (await second.observe(launch.name)).state
        assert seen in (ExecutionState.PENDING, ExecutionState.RUNNING)  # it is known at once, and may be quick
        for executor in (first, second):
            ended = await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.EXITED)
            assert ended.exit_code == 0
        await asyncio.sleep(0.5)  # the last batch
        before = len(told_second)
        await first.stop(launch.name)
        await wait_for(second, launch, lambda execution: execution.state is ExecutionState.GONE)
        await asyncio.sleep(0.5)
    for told in (told_first, told_second):
        assert 3 <= told.count(launch.name) <= 8, "waiting, running, ended, gone; and notes"
    assert launch.name in told_second[before:]


async def test_the_watch_survives_a_restart_of_the_api_server(shell_trainers: ShellTrainers) -> None:
    executor = shell_trainers.executor()
    marker = shell_trainers.evidence / uuid4().hex
    launch = shell_trainers.launch(f"until [ -e /evidence/{marker.name} ]; do sleep 0.1; done; exit 3")
    async with watched(executor):
        await executor.start(launch)
        await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.RUNNING)
        await asyncio.to_thread(restart_api_server)
        assert (await executor.observe(launch.name)).state is ExecutionState.RUNNING
        marker.touch()
        ended = await wait_for(executor, launch, lambda execution: execution.state is ExecutionState.EXITED, 60)
        assert ended.exit_code == 3
        await executor.check()
        await executor.stop(launch.name)


async def test_an_expired_watch_is_begun_anew_with_a_list(shell_trainers: ShellTrainers) -> None:
    api = KubernetesApi(shell_trainers.namespace, None)
    settings = shell_trainers.settings(instance="expired")
    changed = asyncio.Event()
    jobs = WatchedObjects(
        api,
        JOBS,
        instance_selector(settings),
        group_of=execution_of,
        slim=lambda item: item,
        on_change=lambda name: changed.set(),
    )
    jobs._version = "1"  # long forgotten by the server
    run = asyncio.create_task(jobs.run())
    executor = shell_trainers.executor(instance="expired")
    launch = shell_trainers.launch("true")
    await executor.start(launch)
    async with asyncio.timeout(20):
        await jobs.wait_synced()
        await changed.wait()
    assert [job["metadata"]["name"] for job in jobs.group(launch.name)] == [launch.name.lower()]
    assert api.calls["list jobs"] == 1
    run.cancel()
    await asyncio.wait([run])
    await executor.interrupt(launch.name)
    await executor.close()
    await api.close()


async def test_a_job_of_somebody_else_in_the_way_is_named(
    shell_trainers: ShellTrainers, executor: KubernetesExecutor
) -> None:
    launch = shell_trainers.launch("true")
    template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "any", "image": "any"}]}}
    name = launch.name.lower()
    shell_trainers.batch.create_namespaced_job(
        shell_trainers.namespace, {"metadata": {"name": name}, "spec": {"template": template, "parallelism": 0}}
    )
    with pytest.raises(ExecutorUnavailable, match=f"Job {name} in namespace {shell_trainers.namespace} is in the way"):
        await executor.start(launch)
    assert (await executor.observe(launch.name)).state is ExecutionState.GONE
    shell_trainers.batch.delete_namespaced_job(name, shell_trainers.namespace)


async def test_a_missing_right_is_named(shell_trainers: ShellTrainers, tmp_path: Path) -> None:
    reads = [{"apiGroups": ["", "batch"], "resources": ["jobs", "pods", "events"], "verbs": ["get", "list", "watch"]}]
    kubeconfig = shell_trainers.kubeconfig_of_account("reader", reads, tmp_path / "reader.conf")
    executor = shell_trainers.executor(kubeconfig=kubeconfig)
    async with watched(executor):
        await executor.observe(shell_trainers.launch("").name)
        await executor.check()
        with pytest.raises(ExecutorUnavailable, match="the verb create on jobs in namespace"):
            await executor.start(shell_trainers.launch("true"))


async def test_a_watch_that_may_not_read_says_so(shell_trainers: ShellTrainers, tmp_path: Path) -> None:
    reads = [{"apiGroups": ["", "batch"], "resources": ["jobs", "pods"], "verbs": ["get", "list", "watch"]}]
    kubeconfig = shell_trainers.kubeconfig_of_account("eventless", reads, tmp_path / "eventless.conf")
    executor = shell_trainers.executor(kubeconfig=kubeconfig)
    async with watched(executor):
        with pytest.raises(ExecutorUnavailable, match="the verb list on events in namespace"):
            await executor.observe(shell_trainers.launch("").name)


async def test_an_api_server_that_is_away_is_told_and_names_what_to_do(
    shell_trainers: ShellTrainers, tmp_path: Path
) -> None:
    config: dict[str, Any] = {
        "current-context": "k",
        "clusters": [{"name": "k", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "k", "context": {"cluster": "k", "user": "u"}}],
    }
    path = tmp_path / "nowhere.conf"
    path.write_text(json.dumps(config))
    executor = shell_trainers.executor(kubeconfig=path)
    with pytest.raises(ExecutorUnavailable, match="does not answer"):
        await executor.check()
    with pytest.raises(ExecutorUnavailable, match="does not answer"):
        await executor.start(shell_trainers.launch("true"))
    await executor.close()


async def test_a_manifest_that_the_cluster_refuses_is_told_in_its_words(shell_trainers: ShellTrainers) -> None:
    executor = shell_trainers.executor(nodeSelector={"not a label": "x"})
    with pytest.raises(ExecutorUnavailable, match=r"(?s)not a label.*Mend the settings for training pods"):
        await executor.start(shell_trainers.launch("true"))
    await executor.close()
