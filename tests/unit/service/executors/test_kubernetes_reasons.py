"""What Kubernetes says becomes a state, an end and plain words, on the Kubernetes of today and on 1.20."""

from decimal import Decimal
from typing import Any

import pytest

from service.executors.base import Execution, ExecutionState, Note
from service.executors.kubernetes_objects import LargestNode, largest_node
from service.executors.kubernetes_reasons import describe
from tuning.contract import ErrorCode

Json = dict[str, Any]

NAME = "ftjob-abcdefghijklmnopqrstuvwx-1"
CREATED = "2026-01-01T10:00:00Z"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"


def a_job(
    *conditions: Json, name: str = NAME, labels: Json | None = None, status: Json | None = None, **spec: Any
) -> Json:
    return {
        "kind": "Job",
        "metadata": {"name": name, "creationTimestamp": CREATED, "labels": labels or {}},
        "spec": {"completions": 1, "parallelism": 1, "backoffLimit": 2} | spec,
        "status": {"conditions": list(conditions)} | (status or {}),
    }


def a_condition(kind: str, reason: str = "", status: str = "True", **more: Any) -> Json:
    return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T10:00:05Z"} | more


def a_pod(
    suffix: str = "aaaaa",
    phase: str = "Pending",
    state: Json | None = None,
    *conditions: Json,
    asks: Json | None = None,
    labels: Json | None = None,
    deleted_at: str | None = None,
    deadline: int | None = None,
    **status: Any,
) -> Json:
    asks = asks or {"cpu": "1", "memory": "4Gi"}
    metadata: Json = {"name": f"{NAME}-{suffix}", "creationTimestamp": CREATED, "labels": labels or {}}
    if deleted_at:
        metadata["deletionTimestamp"] = deleted_at
    limits = {name: quantity for name, quantity in asks.items() if name != "cpu"}
    container = {"name": "trainer", "image": "registry/trainer:1", "resources": {"requests": asks, "limits": limits}}
    spec: Json = {"containers": [container]}
    if deadline:
        spec["activeDeadlineSeconds"] = deadline
    statuses = [] if state is None else [{"name": "trainer", "state": state}]
    return {
        "metadata": metadata,
        "spec": spec,
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": statuses} | status,
    }


def running(suffix: str = "aaaaa", *conditions: Json, **more: Any) -> Json:
    return a_pod(suffix, "Running", {"running": {"startedAt": CREATED}}, *conditions, **more)


def ended(code: int, suffix: str = "aaaaa", *conditions: Json, at: str = "2026-01-01T10:05:00Z", **more: Any) -> Json:
    reason = more.pop("container_reason", "Completed" if code == 0 else "Error")
    terminated = {"exitCode": code, "reason": reason, "finishedAt": at} | more.pop("terminated", {})
    phase = "Succeeded" if code == 0 else "Failed"
    return a_pod(suffix, phase, {"terminated": terminated}, *conditions, **more)


def waiting(reason: str, message: str = "", **more: Any) -> Json:
    return a_pod("aaaaa", "Pending", {"waiting": {"reason": reason, "message": message}}, **more)


def unschedulable(message: str, **more: Any) -> Json:
    return a_pod(
        "aaaaa", "Pending", None, a_condition("PodScheduled", "Unschedulable", "False", message=message), **more
    )


def an_event(
    reason: str,
    message: str,
    kind: str = "Pod",
    name: str = f"{NAME}-aaaaa",
    at: str = "2026-01-01T10:01:00Z",
    count: int = 1,
) -> Json:
    return {
        "metadata": {"name": f"{name}.{reason}.{at}"},
        "involvedObject": {"kind": kind, "name": name},
        "reason": reason,
        "message": message,
        "count": count,
        "lastTimestamp": at,
    }


def about_workload(reason: str, message: str, **more: Any) -> Json:
    return an_event(reason, message, "Workload", f"job-{NAME}-3f9d1", **more)


def the_note(execution: Execution) -> Note:
    [note] = execution.notes
    return note


# --- state ------------------------------------------------------------------------------------------------------------


def test_a_new_job_is_pending() -> None:
    assert describe(a_job(), [], []) == Execution(ExecutionState.PENDING)
    assert describe({"metadata": {"name": NAME}}, [], []).state is ExecutionState.PENDING


def test_a_pod_that_waits_for_its_container_is_pending() -> None:
    assert describe(a_job(), [waiting("ContainerCreating")], []) == Execution(ExecutionState.PENDING)


def test_a_started_container_is_running() -> None:
    assert describe(a_job(), [running()], []) == Execution(ExecutionState.RUNNING)


def test_one_running_pod_of_several_is_running() -> None:
    pods = [running("0-aaaaa"), unschedulable("0/1 nodes are available: 1 Insufficient cpu.")]
    execution = describe(a_job(completions=2, parallelism=2), pods, [])
    assert execution.state is ExecutionState.RUNNING
    assert "cpu" in the_note(execution).message


def test_nothing_there_is_gone() -> None:
    assert describe(None, [], []) == Execution(ExecutionState.GONE)


def test_pods_of_a_deleted_job_run_until_they_have_ended() -> None:
    leaving = running(deleted_at="2026-01-01T10:10:00Z")
    assert describe(None, [leaving], []) == Execution(ExecutionState.RUNNING)
    assert describe(None, [a_pod()], []) == Execution(ExecutionState.RUNNING)
    assert describe(None, [ended(75)], []) == Execution(ExecutionState.EXITED, 75)
    assert describe(None, [a_pod(phase="Failed", reason="Evicted")], []).state is ExecutionState.GONE


def test_a_complete_job_has_exited_with_0() -> None:
    assert describe(a_job(a_condition("Complete")), [ended(0)], []) == Execution(ExecutionState.EXITED, 0)
    assert describe(a_job(a_condition("Complete")), [], []) == Execution(ExecutionState.EXITED, 0)


def test_a_trainer_that_is_done_has_exited_although_its_pod_lives_on() -> None:
    pod = a_pod("aaaaa", "Running", {"terminated": {"exitCode": 0, "finishedAt": CREATED}})
    assert describe(a_job(), [pod], []) == Execution(ExecutionState.EXITED, 0)


def test_a_gang_is_done_when_all_are() -> None:
    job = a_job(completions=2, parallelism=2)
    assert describe(job, [ended(0, "0-aaaaa"), running("1-bbbbb")], []).state is ExecutionState.RUNNING
    assert describe(job, [ended(0, "0-aaaaa"), ended(0, "1-bbbbb")], []) == Execution(ExecutionState.EXITED, 0)


def test_a_user_error_is_the_end_also_where_kubernetes_would_try_again() -> None:
    failed = a_job(a_condition("Failed", "PodFailurePolicy"))
    assert describe(failed, [ended(64)], []) == Execution(ExecutionState.EXITED, 64)
    assert describe(a_job(), [ended(64)], []) == Execution(ExecutionState.EXITED, 64)


def test_a_failed_job_without_pods_has_an_unknown_exit_code() -> None:
    execution = describe(a_job(a_condition("Failed", "SomethingNew")), [], [])
    assert execution == Execution(ExecutionState.EXITED, None)


def test_a_job_that_is_about_to_fail_is_still_there() -> None:
    execution = describe(a_job(a_condition("FailureTarget", "BackoffLimitExceeded")), [running()], [])
    assert execution.state is ExecutionState.RUNNING


def test_looking_twice_tells_the_same() -> None:
    pods = [ended(1), unschedulable("0/1 nodes are available: 1 Insufficient cpu.")]
    assert describe(a_job(), pods, []) == describe(a_job(), list(reversed(pods)), [])


# --- no place ---------------------------------------------------------------------------------------------------------

GPU_MESSAGES = [
    "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    "0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available: 3 No victims found.",
]


@pytest.mark.parametrize("message", GPU_MESSAGES)
def test_a_missing_gpu_is_told_once_whatever_the_counts(message: str) -> None:
    pod = unschedulable(message, asks={"cpu": "1", "memory": "4Gi", "nvidia.com/gpu": "1"})
    execution = describe(a_job(), [pod], [])
    assert execution.state is ExecutionState.PENDING
    assert the_note(execution) == Note(
        "waits-short-nvidia.com/gpu",
        "Waiting for a place: no node has enough GPUs free (nvidia.com/gpu: 1). It starts as soon as there is one. If "
        "no node is ever that large, cancel the job and ask for less.",
        "warn",
    )


def test_an_event_tells_it_before_the_condition_does() -> None:
    pod = a_pod(asks={"nvidia.com/gpu": "1"})
    execution = describe(a_job(), [pod], [an_event("FailedScheduling", GPU_MESSAGES[0])])
    assert the_note(execution).key == "waits-short-nvidia.com/gpu"


def test_what_it_waited_for_is_forgotten_once_it_runs() -> None:
    assert describe(a_job(), [running()], [an_event("FailedScheduling", GPU_MESSAGES[0])]).notes == ()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("0/2 nodes are available: 2 Insufficient memory.", ["no node has enough memory free (memory: 4Gi)"]),
        ("0/2 nodes are available: 1 Insufficient cpu, 2 Insufficient memory.", ["cpu: 1", "memory: 4Gi"]),
        (
            "0/1 nodes are available: 1 node(s) had taint {gpu: yes}, that the pod didn't tolerate.",
            ["gpu", "tolerations"],
        ),
        ("0/1 nodes are available: 1 node(s) had untolerated taint(s).", ["tolerations"]),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", ["nodeSelector"]),
        ("0/1 nodes are available: 1 node(s) didn't match node selector.", ["nodeSelector"]),
        ('persistentvolumeclaim "models" not found', ["modelCache"]),
        ("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", ["modelCache"]),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", ["kubectl uncordon"]),
        ("no nodes available to schedule pods", ["no nodes yet"]),
        ("0/1 nodes are available: 1 node(s) had a strange mood.", ["strange mood"]),
    ],
)
def test_what_the_scheduler_says_is_told_with_what_to_do(message: str, words: list[str]) -> None:
    note = the_note(describe(a_job(), [unschedulable(message)], []))
    assert note.level == "warn"
    for word in words:
        assert word in note.message


def test_other_reasons_are_told_anew() -> None:
    first = the_note(describe(a_job(), [unschedulable("0/1 nodes are available: 1 Insufficient cpu.")], []))
    second = the_note(describe(a_job(), [unschedulable("0/1 nodes are available: 1 Insufficient memory.")], []))
    assert first.key != second.key


@pytest.mark.parametrize(
    ("asks", "words"),
    [
        ({"nvidia.com/gpu": "8"}, ["asks for 8 GPUs (nvidia.com/gpu)", "no node has more than 4"]),
        ({"cpu": "64500m"}, ["asks for 64500m CPUs", "no node has more than 64"]),
        ({"memory": "257Gi"}, ["asks for 257Gi of memory", "no node has more than 256.0Gi"]),
    ],
)
def test_a_job_that_no_node_can_ever_have_says_so_and_waits(asks: Json, words: list[str]) -> None:
    largest = LargestNode(cpu=Decimal(64), memory=Decimal(256 * 2**30), gpus=4)
    pod = unschedulable("0/9 nodes are available: 9 Insufficient something.", asks=asks)
    execution = describe(a_job(), [pod], [], largest_node=largest)
    assert execution.state is ExecutionState.PENDING
    assert execution.error is None
    note = the_note(execution)
    assert (note.key, note.level) == ("no-node-large-enough", "error")
    for word in words:
        assert word in note.message


def test_a_job_that_fits_somewhere_only_waits() -> None:
    largest = LargestNode(cpu=Decimal(64), memory=Decimal(256 * 2**30), gpus=8)
    pod = unschedulable(GPU_MESSAGES[0], asks={"cpu": "64", "memory": "256Gi", "nvidia.com/gpu": "8"})
    note = the_note(describe(a_job(), [pod], [], largest_node=largest))
    assert note.level == "warn"
    assert "ever" not in note.message


def test_the_largest_node_is_the_most_of_each() -> None:
    nodes: list[Json] = [
        {"status": {"allocatable": {"cpu": "3920m", "memory": "16Gi", "nvidia.com/gpu": "2"}}},
        {"status": {"allocatable": {"cpu": "2", "memory": "33554432Ki"}}},
        {"status": {}},
    ]
    assert largest_node(nodes, "nvidia.com/gpu") == LargestNode(Decimal("3.92"), Decimal(32 * 2**30), 2)
    assert largest_node(nodes, "amd.com/gpu") == LargestNode(Decimal("3.92"), Decimal(32 * 2**30), 0)
    assert largest_node([], "nvidia.com/gpu") is None


# --- a place, and no start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "message", "level"),
    [
        ("ErrImagePull", 'rpc error: code = Unknown desc = "registry/trainer:1": not found', "warn"),
        ("InvalidImageName", 'couldn\'t parse image reference "registry/trainer:1:2"', "error"),
        ("ErrImageNeverPull", 'Container image "registry/trainer:1" is not present with pull policy of Never', "error"),
    ],
)
def test_a_missing_image_is_named_with_the_setting(reason: str, message: str, level: str) -> None:
    note = the_note(describe(a_job(), [waiting(reason, message)], []))
    assert (note.key, note.level) == ("image", level)
    for word in ("registry/trainer:1", message, "imagePullSecrets"):
        assert word in note.message


def test_a_back_off_tells_why_the_pull_failed() -> None:
    cause = 'Failed to pull image "registry/trainer:1": 401 Unauthorized'
    events = [an_event("Failed", cause), an_event("Failed", "Error: ImagePullBackOff", at="2026-01-01T10:02:00Z")]
    note = the_note(describe(a_job(), [waiting("ImagePullBackOff", 'Back-off pulling image "x"')], events))
    assert note.key == "image"
    assert "401 Unauthorized" in note.message


def test_a_missing_secret_is_named() -> None:
    note = the_note(describe(a_job(), [waiting("CreateContainerConfigError", 'secret "storage" not found')], []))
    assert 'secret "storage" not found' in note.message
    assert "envFrom" in note.message


def test_a_volume_that_cannot_be_mounted_is_told() -> None:
    events = [an_event("FailedMount", 'MountVolume.SetUp failed for volume "model-cache": timed out')]
    note = the_note(describe(a_job(), [waiting("ContainerCreating")], events))
    assert "model-cache" in note.message
    other = [an_event("FailedMount", "x", name=f"{NAME}-bbbbb")]
    assert describe(a_job(), [waiting("ContainerCreating")], other).notes == ()


# --- no pod -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "key", "advice"),
    [
        (
            'Error creating: pods "x-1" is forbidden: exceeded quota: a, requested: cpu=1, used: cpu=9, limited: cpu=9',
            "refused-quota",
            "ResourceQuota",
        ),
        (
            'Error creating: pods "x" is forbidden: violates PodSecurity "restricted:latest": host namespaces',
            "refused-pod-security",
            "Pod Security",
        ),
        (
            'Error creating: pods "x" is forbidden: error looking up service account a/b: serviceaccount "b" not found',
            "refused-service-account",
            "serviceAccountName",
        ),
        (
            'Error creating: pods "x" is forbidden: no PriorityClass with name batch was found',
            "refused-priority-class",
            "priorityClassName",
        ),
        ('Error creating: admission webhook "policy" denied the request', "refused-other", "tries again"),
    ],
)
def test_a_pod_that_is_refused_says_why(message: str, key: str, advice: str) -> None:
    event = an_event("FailedCreate", message, "Job", NAME)
    later = an_event("FailedCreate", message.replace("used: cpu=9", "used: cpu=8"), "Job", NAME, "2026-01-01T10:09:00Z")
    execution = describe(a_job(), [], [later, event])
    assert execution.state is ExecutionState.PENDING
    note = the_note(execution)
    assert note.key == key
    assert advice in note.message
    assert message in note.message
    assert describe(a_job(), [running()], [event]).notes == ()


QUEUED = {"kueue.x-k8s.io/queue-name": "training"}


def test_a_job_in_kueues_queue_says_what_it_waits_for() -> None:
    message = (
        "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor a, 4 more "
        "needed"
    )
    job = a_job(labels=QUEUED, suspend=True)
    assert the_note(describe(job, [], [])).message == "Waiting in Kueue's queue training."
    execution = describe(job, [], [about_workload("Pending", message)])
    assert execution.state is ExecutionState.PENDING
    assert [note.key for note in execution.notes] == ["queue", "queue-full"]
    assert "insufficient unused quota for nvidia.com/gpu in flavor a." in execution.notes[1].message
    again = describe(job, [], [about_workload("Pending", message.replace("4 more", "3 more"))])
    assert again == execution  # nothing new to tell


@pytest.mark.parametrize(
    ("message", "key"),
    [
        (
            "couldn't assign flavors to pod set main: insufficient quota for cpu in flavor a, request > maximum "
            "capacity (10 > 8)",
            "queue-never",
        ),
        ("LocalQueue training doesn't exist", "queue-broken"),
        ("ClusterQueue main is inactive", "queue-broken"),
    ],
)
def test_a_queue_that_never_lets_it_in_is_an_error(message: str, key: str) -> None:
    execution = describe(a_job(labels=QUEUED, suspend=True), [], [about_workload("Pending", message)])
    assert execution.state is ExecutionState.PENDING
    assert (execution.notes[-1].key, execution.notes[-1].level) == (key, "error")
    assert message in execution.notes[-1].message


def test_an_admission_and_each_eviction_of_kueue_are_told() -> None:
    events = [
        about_workload("EvictedDueToPreempted", "Preempted to accommodate a workload", at="2026-01-01T11:00:00Z"),
        about_workload("Admitted", "Admitted by ClusterQueue main", at="2026-01-01T12:00:00Z"),
        about_workload("Admitted", "Admitted by ClusterQueue main", at="2026-01-01T10:00:00Z"),
    ]
    execution = describe(a_job(labels=QUEUED), [running()], events)
    assert execution.state is ExecutionState.RUNNING
    words = ["let the job in", "taken the job's place away", "let the job in"]
    for note, word in zip(execution.notes, words, strict=True):
        assert word in note.message
    assert len({note.key for note in execution.notes}) == 3


def test_a_job_that_somebody_suspended_says_how_to_resume_it() -> None:
    note = the_note(describe(a_job(suspend=True), [], []))
    assert f"kubectl patch job {NAME}" in note.message


def test_a_suspended_job_runs_until_its_pods_have_ended() -> None:
    pod = running(deleted_at="2026-01-01T10:10:00Z")
    assert describe(a_job(labels=QUEUED, suspend=True), [pod], []).state is ExecutionState.RUNNING


# --- taken away -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("PreemptionByScheduler", "higher priority"),
        ("DeletionByTaintManager", "taint"),
        ("EvictionByEvictionAPI", "emptied"),
        ("TerminationByKubelet", "ran short"),
        ("DeletionByPodGC", "node is gone"),
        ("SomethingNew", "SomethingNew"),
    ],
)
@pytest.mark.parametrize("has_ended", [False, True])
def test_a_disruption_is_told_and_is_no_crash(reason: str, words: str, has_ended: bool) -> None:
    condition = a_condition("DisruptionTarget", reason)
    if has_ended:
        execution = describe(a_job(), [ended(137, "aaaaa", condition)], [])
        assert execution.state is ExecutionState.PENDING
        assert words in the_note(execution).message
    else:
        execution = describe(a_job(), [running("aaaaa", condition, deleted_at="2026-01-01T10:10:00Z")], [])
        assert execution.state is ExecutionState.RUNNING
    assert the_note(execution).key == f"taken-away-{NAME}-aaaaa"
    assert "goes on from the last state" in the_note(execution).message


def test_an_eviction_is_known_on_an_old_kubernetes_too() -> None:
    message = (
        "The node was low on resource: memory. Container trainer was using 5Gi, which exceeds its request of 4Gi. "
    )
    evicted = a_pod("aaaaa", "Failed", reason="Evicted", message=message)
    execution = describe(a_job(), [evicted], [])
    assert execution.state is ExecutionState.PENDING
    assert execution.error is None
    assert "low on resource: memory" in the_note(execution).message


def test_an_evicted_pod_whose_next_one_runs_is_running() -> None:
    evicted = a_pod("aaaaa", "Failed", reason="Evicted", message="The node had condition: [DiskPressure]. ")
    execution = describe(a_job(), [evicted, running("bbbbb")], [])
    assert execution.state is ExecutionState.RUNNING
    assert the_note(execution).key == f"taken-away-{NAME}-aaaaa"


def test_a_pod_that_is_deleted_under_its_job_is_told() -> None:
    execution = describe(a_job(), [running(deleted_at="2026-01-01T10:10:00Z")], [])
    assert "it was deleted" in the_note(execution).message


def test_what_we_stop_ourselves_is_not_told() -> None:
    job = a_job()
    job["metadata"]["deletionTimestamp"] = "2026-01-01T10:10:00Z"
    pod = running(deleted_at="2026-01-01T10:10:00Z")
    assert describe(job, [pod], []) == Execution(ExecutionState.RUNNING)
    assert describe(None, [pod], []) == Execution(ExecutionState.RUNNING)
    assert describe(job, [ended(137)], []).notes == ()


def test_a_saved_state_is_no_crash() -> None:
    execution = describe(a_job(), [ended(75)], [])
    assert execution.state is ExecutionState.PENDING
    assert "saved its state" in the_note(execution).message
    assert "crash" not in the_note(execution).message


def test_a_lost_node_is_told() -> None:
    pod = running("aaaaa", a_condition("Ready", "", "False"))
    execution = describe(a_job(), [pod], [an_event("NodeNotReady", "Node is not ready")])
    assert execution.state is ExecutionState.RUNNING
    assert "no longer answers" in the_note(execution).message


# --- crashes ----------------------------------------------------------------------------------------------------------


def test_a_crash_is_told_with_its_number_and_waits_for_its_restart() -> None:
    execution = describe(a_job(), [ended(1)], [])
    assert execution == Execution(
        ExecutionState.PENDING,
        notes=(
            Note(
                "crash-1",
                f"The training process crashed with exit code 1 (pod {NAME}-aaaaa). Kubernetes starts it again "
                "(restart 1 of 2).",
                "warn",
            ),
        ),
    )


def test_each_crash_is_told_in_order() -> None:
    pods = [ended(139, "bbbbb", at="2026-01-01T11:00:00Z"), running("ccccc"), ended(1)]
    execution = describe(a_job(), pods, [])
    assert execution.state is ExecutionState.RUNNING
    assert [note.key for note in execution.notes] == ["crash-1", "crash-2"]
    assert "killed by signal 11" in execution.notes[1].message
    assert "restart 2 of 2" in execution.notes[1].message


def test_one_crash_of_a_gang_is_told_once() -> None:
    pods = [
        ended(1, f"{index}-{hour}", at=f"2026-01-01T1{hour}:0{index}:00Z", labels={INDEX_LABEL: str(index)})
        for index in range(3)
        for hour in range(2)
    ]
    job = a_job(completions=3, parallelism=3, backoffLimit=2147483647, backoffLimitPerIndex=5)
    execution = describe(job, pods, [])
    assert [note.key for note in execution.notes] == ["crash-1", "crash-2"]
    assert "restart 2 of 5" in execution.notes[1].message


def test_a_command_that_cannot_start_says_why() -> None:
    pod = ended(128, container_reason="StartError", terminated={"message": 'exec: "python": not found'})
    assert 'exec: "python": not found' in the_note(describe(a_job(), [pod], [])).message


@pytest.mark.parametrize("reason", ["BackoffLimitExceeded", "FailedIndexes", "MaxFailedIndexesExceeded"])
def test_too_many_crashes_are_an_error_with_the_last_exit_code(reason: str) -> None:
    pods = [ended(1, f"pod{hour}", at=f"2026-01-01T1{hour}:00:00Z") for hour in range(2)]
    pods.append(ended(2, "last", at="2026-01-01T19:00:00Z"))
    execution = describe(a_job(a_condition("Failed", reason)), pods, [])
    assert (execution.state, execution.exit_code) == (ExecutionState.EXITED, 2)
    assert execution.error is not None
    assert execution.error.code is ErrorCode.TRAINER_CRASHED
    assert "crashed 3 times" in execution.error.message
    assert "exit code 2" in execution.error.message


def test_evictions_that_an_old_kubernetes_counts_are_no_error() -> None:
    failed = a_job(a_condition("Failed", "BackoffLimitExceeded"))
    assert describe(failed, [ended(75)], []).error is None
    evicted = a_pod("aaaaa", "Failed", reason="Evicted", message="The node was low on resource: memory. ")
    execution = describe(failed, [evicted], [])
    assert (execution.state, execution.exit_code, execution.error) == (ExecutionState.EXITED, None, None)


def test_a_gang_that_lost_a_pod_may_be_tried_again() -> None:
    pods = [
        ended(75, "0-aaaaa", a_condition("DisruptionTarget", "EvictionByEvictionAPI"), labels={INDEX_LABEL: "0"}),
        ended(1, "1-bbbbb", at="2026-01-01T10:06:00Z", labels={INDEX_LABEL: "1"}),
    ]
    job = a_job(a_condition("Failed", "MaxFailedIndexesExceeded"), completions=2, backoffLimitPerIndex=0)
    execution = describe(job, pods, [])
    assert (execution.state, execution.exit_code, execution.error) == (ExecutionState.EXITED, 1, None)


def test_a_job_set_without_restarts_left_has_failed() -> None:
    job_set = {
        "kind": "JobSet",
        "metadata": {"name": NAME},
        "spec": {},
        "status": {"conditions": [a_condition("Failed", "ReachedMaxRestarts")], "restartsCountTowardsMax": 2},
    }
    pods = [ended(1, "trainer-0-0-aaaaa"), ended(1, "trainer-0-1-bbbbb")]
    execution = describe(job_set, pods, [])
    assert (execution.state, execution.exit_code) == (ExecutionState.EXITED, 1)
    assert execution.error is not None
    assert "crashed 3 times" in execution.error.message


def test_a_job_set_is_done_when_it_says_so() -> None:
    job_set: Json = {"kind": "JobSet", "metadata": {"name": NAME}, "spec": {}, "status": {}}
    done, other = ended(0, "trainer-0-0-aaaaa"), running("trainer-0-1-bbbbb")
    assert describe(job_set, [done, other], []).state is ExecutionState.RUNNING
    job_set["status"] = {"conditions": [a_condition("Completed", "AllJobsCompleted")]}
    assert describe(job_set, [], []) == Execution(ExecutionState.EXITED, 0)


def test_a_job_set_that_restarts_tells_only_the_crash() -> None:
    labels = {"jobset.sigs.k8s.io/restart-attempt": "1"}
    job_set = {"kind": "JobSet", "metadata": {"name": NAME}, "spec": {}, "status": {"restarts": 2}}
    pods = [
        ended(1, "trainer-0-0-aaaaa", labels=labels, deleted_at="2026-01-01T10:10:00Z"),
        running("trainer-0-1-bbbbb", labels=labels, deleted_at="2026-01-01T10:10:00Z"),
    ]
    assert "(restart 2)" in the_note(describe(job_set, pods, [])).message


# --- limits -----------------------------------------------------------------------------------------------------------


def test_out_of_memory_is_an_error_with_the_limit_and_advice() -> None:
    pod = ended(137, container_reason="OOMKilled", asks={"cpu": "1", "memory": "4Gi"})
    for job in (a_job(), a_job(a_condition("Failed", "BackoffLimitExceeded"))):
        execution = describe(job, [pod], [])
        assert (execution.state, execution.exit_code) == (ExecutionState.EXITED, 137)
        assert execution.error is not None
        assert execution.error.code is ErrorCode.OUT_OF_MEMORY
        for word in ("4Gi", "batch_size", "x_training.resources"):
            assert word in execution.error.message


def test_the_pods_deadline_is_an_error_with_the_limit() -> None:
    message = "Pod was active on the node longer than the specified deadline"
    pod = ended(75, deadline=60, reason="DeadlineExceeded", message=message)
    # Kubernetes itself would start it again, with as much time
    execution = describe(a_job(), [pod, running("bbbbb")], [])
    assert execution.state is ExecutionState.EXITED
    assert execution.error is not None
    assert execution.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert "60 seconds" in execution.error.message


def test_a_deadline_that_somebody_gave_the_job_is_an_error_too() -> None:
    job = a_job(a_condition("Failed", "DeadlineExceeded"), activeDeadlineSeconds=90)
    execution = describe(job, [], [])
    assert (execution.state, execution.exit_code) == (ExecutionState.EXITED, None)
    assert execution.error is not None
    assert execution.error.code is ErrorCode.DEADLINE_EXCEEDED
    assert "90 seconds" in execution.error.message


@pytest.mark.parametrize(
    "message",
    [
        'Usage of EmptyDir volume "scratch" exceeds the limit "1Gi". ',
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ",
    ],
)
def test_a_pod_that_fills_its_disk_is_an_error(message: str) -> None:
    execution = describe(a_job(), [a_pod("aaaaa", "Failed", reason="Evicted", message=message)], [])
    assert execution.state is ExecutionState.EXITED
    assert execution.error is not None
    assert execution.error.code is ErrorCode.DISK_FULL
    assert message.strip() in execution.error.message
    assert "scratchSize" in execution.error.message


def test_a_run_that_is_done_forgets_its_troubles() -> None:
    pods = [ended(137, container_reason="OOMKilled"), ended(0, "bbbbb")]
    execution = describe(a_job(a_condition("Complete")), pods, [])
    assert (execution.state, execution.exit_code, execution.error) == (ExecutionState.EXITED, 0, None)
