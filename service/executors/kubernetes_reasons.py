"""What Kubernetes knows of an execution, in the service's words: its state, and why it does not run or has failed."""

from collections.abc import Sequence

from service.executors.base import Execution, ExecutionState, Note
from service.executors.kubernetes_ends import (
    PodEnd,
    crash_times,
    deadline_exceeded,
    end_notes,
    ends_of,
    leaving_note,
    limit_reached,
)
from service.executors.kubernetes_objects import (
    LargestNode,
    Object,
    has_ended,
    is_being_deleted,
    is_running,
    true_condition,
)
from service.executors.kubernetes_waiting import (
    TimedNote,
    admission_notes,
    node_notes,
    refusal_notes,
    scheduling_notes,
    starting_notes,
    suspension_notes,
)
from tuning.contract import ErrorCode, ExitCode, JobError

_TOO_MANY_CRASHES = (
    *("BackoffLimitExceeded", "FailedIndexes", "MaxFailedIndexesExceeded"),
    *("ReachedMaxRestarts", "FailedJobs"),  # of a JobSet
)


def describe(
    job: Object | None,
    pods: Sequence[Object],
    events: Sequence[Object],
    *,
    gpu_resource: str = "nvidia.com/gpu",
    largest_node: LargestNode | None = None,
) -> Execution:
    """`job`: the Job or JobSet; None: there is none. `pods`: all of the execution, ended ones and those being deleted
    too. `events`: core/v1 Events about either of them, about their child Jobs and about Kueue's Workload for them, in
    any order. `largest_node`: None where we may not read nodes.

    An end that another pod would come to as well (out of memory, a deadline, the user's error) is the execution's end,
    although Kubernetes may try once more: whoever asks stops it.
    """
    ends = ends_of(pods)
    state, error = _state(job, pods, ends)
    notes = _notes(job, pods, events, ends, gpu_resource, largest_node)
    exit_code = _exit_code(job, ends) if state is ExecutionState.EXITED else None
    return Execution(state, exit_code, notes, error)


# --- state ------------------------------------------------------------------------------------------------------------


def _state(
    job: Object | None, pods: Sequence[Object], ends: Sequence[PodEnd]
) -> tuple[ExecutionState, JobError | None]:
    if job is not None and _has_succeeded(job, ends):
        return ExecutionState.EXITED, None
    if (error := limit_reached(ends)) is not None:
        return ExecutionState.EXITED, error
    if any(end.exit_code == ExitCode.USER_ERROR for end in ends):
        return ExecutionState.EXITED, None
    if job is not None and (failed := true_condition(job, "Failed")) is not None:
        return ExecutionState.EXITED, _why_failed(job, failed, ends)
    if any(is_running(pod) for pod in pods):
        return ExecutionState.RUNNING, None
    if job is not None:
        return ExecutionState.PENDING, None
    if not all(has_ended(pod) for pod in pods):
        return ExecutionState.RUNNING, None  # it is being taken down
    has_code = any(end.exit_code is not None for end in ends)
    return (ExecutionState.EXITED if has_code else ExecutionState.GONE), None


def _has_succeeded(job: Object, ends: Sequence[PodEnd]) -> bool:
    """Also a moment before Kubernetes says so, and where a mesh keeps pods alive whose trainer has ended."""
    if true_condition(job, "Complete", "Completed") is not None:
        return True
    wanted = (job.get("spec") or {}).get("completions")  # a JobSet has none
    return wanted is not None and sum(end.exit_code == ExitCode.OK for end in ends) >= wanted


def _exit_code(job: Object | None, ends: Sequence[PodEnd]) -> int | None:
    if job is not None and _has_succeeded(job, ends):
        return int(ExitCode.OK)
    codes = [end.exit_code for end in ends if end.exit_code is not None]
    if ExitCode.USER_ERROR in codes:
        return int(ExitCode.USER_ERROR)
    return codes[-1] if codes else None


def _why_failed(job: Object, failed: Object, ends: Sequence[PodEnd]) -> JobError | None:
    """None: nobody knows, or another attempt may well go better."""
    reason = failed.get("reason")
    if reason == "DeadlineExceeded":
        return deadline_exceeded((job.get("spec") or {}).get("activeDeadlineSeconds"))
    if reason not in _TOO_MANY_CRASHES:
        return None
    # A Kubernetes without podFailurePolicy counts evictions and saved states too: those are no reason to give up.
    if ends and not ends[-1].is_crash:
        return None
    # A pod that is taken from a gang makes the others crash.
    if ((job.get("spec") or {}).get("completions") or 1) > 1 and any(end.disruption is not None for end in ends):
        return None
    times = max(crash_times(ends), _counted_restarts(job), 1)
    last = f"; the last time it {ends[-1].in_words}" if ends else ""
    message = (
        f"The training process crashed {times} time{'s' if times > 1 else ''}, as often as it may{last}. `fettle jobs "
        "logs` shows what it printed. If memory is short, a smaller batch_size or shorter rows help."
    )
    return JobError(code=ErrorCode.TRAINER_CRASHED, message=message)


def _counted_restarts(job: Object) -> int:
    """Of a JobSet, which deletes the pods of each try."""
    return int(job.get("status", {}).get("restartsCountTowardsMax") or 0) + 1


# --- notes ------------------------------------------------------------------------------------------------------------


def _notes(
    job: Object | None,
    pods: Sequence[Object],
    events: Sequence[Object],
    ends: Sequence[PodEnd],
    gpu_resource: str,
    largest: LargestNode | None,
) -> tuple[Note, ...]:
    if job is None or is_being_deleted(job):  # we stopped it: whatever ends now ends because of that
        return ()
    notes: list[TimedNote] = [*end_notes(ends, _restart_limit(job)), *admission_notes(events)]
    is_over = true_condition(job, "Complete", "Completed", "Failed", "FailureTarget", "SuccessCriteriaMet") is not None
    if not is_over:
        notes += _present_notes(job, pods, events, gpu_resource, largest)
    unique: dict[str, Note] = {}
    for _, note in sorted(notes, key=lambda timed: timed[0]):
        unique.setdefault(note.key, note)
    return tuple(unique.values())


def _present_notes(
    job: Object, pods: Sequence[Object], events: Sequence[Object], gpu_resource: str, largest: LargestNode | None
) -> list[TimedNote]:
    """What is so now; what was so before is over, and helps nobody."""
    notes: list[TimedNote] = []
    living = [pod for pod in pods if not has_ended(pod)]
    is_suspended = bool((job.get("spec") or {}).get("suspend"))
    if is_suspended:
        notes += suspension_notes(job, events)
    elif not living:
        notes += refusal_notes(events)
    for pod in living:
        leaving = None if is_suspended else leaving_note(pod)
        if leaving is not None:
            notes.append(leaving)
        elif is_running(pod):
            notes += node_notes(pod, events)
        elif not is_being_deleted(pod):
            notes += [*scheduling_notes(pod, events, gpu_resource, largest), *starting_notes(pod, events)]
    return notes


def _restart_limit(job: Object) -> int | None:
    spec = job.get("spec") or {}
    limit = spec.get("backoffLimitPerIndex", spec.get("backoffLimit"))
    return None if limit is None else int(limit)
