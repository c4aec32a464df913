"""How pods of an execution ended: done, stopped, taken away, crashed, or at a limit that the next would reach too."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from service.executors.base import Note
from service.executors.kubernetes_objects import (
    Object,
    container_resource,
    container_state,
    has_ended,
    is_being_deleted,
    name_of,
    true_condition,
)
from tuning.contract import ErrorCode, ExitCode, JobError

_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
_SET_RESTART_LABEL = "jobset.sigs.k8s.io/restart-attempt"
_SHELL_SIGNAL_BASE = 128  # a container that signal N ended has this plus N as its exit code
_SIGKILL_EXIT_CODE = _SHELL_SIGNAL_BASE + 9

_DISRUPTIONS = {
    # reasons of the condition DisruptionTarget
    "PreemptionByScheduler": "a pod with a higher priority needed its place",
    "DeletionByTaintManager": "its node got a taint, as one does that no longer answers",
    "EvictionByEvictionAPI": "its node is being emptied",
    "DeletionByPodGC": "its node is gone",
    "TerminationByKubelet": "its node ran short of something or is shutting down",
    # reasons of a pod's status
    "Evicted": "its node ran short of something",
    "Preempting": "a pod of the system needed its place",
    "NodeLost": "its node no longer answers",
    "Shutdown": "its node is shutting down",
    "NodeShutdown": "its node is shutting down",
    "Terminated": "its node is shutting down",
}
_OWN_LIMIT = re.compile(r"exceed(s|ed) (the|its)( total| local ephemeral storage)? limit")
"""The kubelet also calls it an eviction when a pod wrote more to its disk than it may."""
_NO_START = ("StartError", "ContainerCannotRun")


@dataclass(frozen=True)
class PodEnd:
    pod: Object
    at: str
    exit_code: int | None
    """None: unknown, or its container never ran."""
    reason: str
    """Kubernetes' own word."""
    disruption: str | None
    """Why it was taken away, in words; None: it was not."""

    @property
    def is_crash(self) -> bool:
        expected = (ExitCode.OK, ExitCode.USER_ERROR, ExitCode.PREEMPTED)
        return self.disruption is None and self.exit_code not in expected

    @property
    def in_words(self) -> str:
        code = self.exit_code
        if self.reason in _NO_START:
            message = container_state(self.pod).get("terminated", {}).get("message") or self.reason
            return f"could not be started ({message})"
        if code is None:
            return f"ended ({self.reason})" if self.reason else "ended"
        if code == _SIGKILL_EXIT_CODE:
            return "was killed (SIGKILL), as the system does when memory runs out"
        if code > _SHELL_SIGNAL_BASE:
            return f"was killed by signal {code - _SHELL_SIGNAL_BASE}"
        return f"crashed with exit code {code}"


def ends_of(pods: Sequence[Object]) -> list[PodEnd]:
    """Oldest first."""
    return sorted((_end_of(pod) for pod in pods if has_ended(pod)), key=lambda end: end.at)


def limit_reached(ends: Sequence[PodEnd]) -> JobError | None:
    """One that the next pod would reach too."""
    for end in ends:
        if (error := _limit_reached(end)) is not None:
            return error
    return None


def crash_times(ends: Sequence[PodEnd]) -> int:
    """How often the training crashed. Where several pods train together, one crash takes all of them along."""
    return max((len(crashes) for crashes in _crashes_by_index(ends)), default=0)


def end_notes(ends: Sequence[PodEnd], restart_limit: int | None) -> list[tuple[str, Note]]:
    """Each with its time. Of pods that Kubernetes replaces."""
    notes = [_disruption_note(end) for end in ends if end.disruption is not None]
    notes += [_stopped_note(end) for end in ends if end.disruption is None and end.exit_code == ExitCode.PREEMPTED]
    for crashes in _crashes_by_index(ends):
        numbers = [int(_label(end.pod, _SET_RESTART_LABEL) or number) + 1 for number, end in enumerate(crashes)]
        notes += [_crash_note(end, number, restart_limit) for end, number in zip(crashes, numbers, strict=True)]
    return notes


def leaving_note(pod: Object) -> tuple[str, Note] | None:
    """Of a pod that is being taken away and has not ended yet."""
    disrupted = true_condition(pod, "DisruptionTarget")
    is_restart = _label(pod, _SET_RESTART_LABEL) is not None  # a JobSet deletes all pods when one of them crashed
    if disrupted is None and (is_restart or not is_being_deleted(pod)):
        return None
    why = _DISRUPTIONS.get(disrupted.get("reason", ""), "") if disrupted else ""
    return _disrupted(pod, str(pod["metadata"].get("deletionTimestamp") or ""), why or "it was deleted")


def _end_of(pod: Object) -> PodEnd:
    status, terminated = pod.get("status", {}), container_state(pod).get("terminated") or {}
    return PodEnd(
        pod=pod,
        at=str(terminated.get("finishedAt") or pod["metadata"].get("creationTimestamp") or ""),
        exit_code=terminated.get("exitCode", 0 if status.get("phase") == "Succeeded" else None),
        reason=status.get("reason") or terminated.get("reason") or "",
        disruption=_disruption(pod),
    )


def _disruption(pod: Object) -> str | None:
    status = pod.get("status", {})
    message = (status.get("message") or "").strip()
    if (condition := true_condition(pod, "DisruptionTarget")) is not None:
        reason, detail = condition.get("reason", ""), message or condition.get("message") or ""
        return _with_detail(_DISRUPTIONS.get(reason, f"Kubernetes says {reason}"), detail)
    reason = status.get("reason") or ""
    if reason not in _DISRUPTIONS or _OWN_LIMIT.search(message):
        return None
    return _with_detail(_DISRUPTIONS[reason], message)


def _with_detail(words: str, detail: str) -> str:
    return f"{words} ({detail.rstrip('. ')})" if detail else words


def _limit_reached(end: PodEnd) -> JobError | None:
    message = (end.pod.get("status", {}).get("message") or "").strip()
    if end.reason == "DeadlineExceeded":
        return deadline_exceeded(end.pod.get("spec", {}).get("activeDeadlineSeconds"))
    was_killed = (container_state(end.pod).get("terminated") or {}).get("reason") == "OOMKilled"
    if was_killed and end.disruption is None:
        return _out_of_memory(container_resource(end.pod, "limits", "memory"))
    if end.reason == "Evicted" and end.disruption is None:
        return JobError(
            code=ErrorCode.DISK_FULL,
            message=f"The training wrote more to local disk than it may: {message} Train on fewer or shorter rows, ask "
            "for more ephemeral_storage (x_training.resources), or have the operator raise scratchSize or shmSize.",
        )
    return None


def deadline_exceeded(seconds: int | None) -> JobError:
    limit = "this installation allows" if seconds is None else f"the {seconds} seconds that this installation allows"
    message = (
        f"Training took longer than {limit}. Train on fewer rows or for fewer epochs, ask for more GPUs, or have the "
        "operator raise activeDeadlineSeconds."
    )
    return JobError(code=ErrorCode.DEADLINE_EXCEEDED, message=message)


def _out_of_memory(limit: str | None) -> JobError:
    had = "all memory of its node" if limit is None else f"all of its {limit} of memory"
    message = (
        f"The training used {had} and was killed. Use a smaller batch_size or shorter rows, or give the job more "
        "memory (x_training.resources). This is the machine's memory, not the GPU's."
    )
    return JobError(code=ErrorCode.OUT_OF_MEMORY, message=message)


def _disruption_note(end: PodEnd) -> tuple[str, Note]:
    return _disrupted(end.pod, end.at, end.disruption or "")


def _disrupted(pod: Object, at: str, why: str) -> tuple[str, Note]:
    message = (
        f"The pod {name_of(pod)} is taken away: {why}. Kubernetes starts another, which goes on from the last state."
    )
    return at, Note(f"taken-away-{name_of(pod)}", message, "warn")


def _stopped_note(end: PodEnd) -> tuple[str, Note]:
    message = f"The pod {name_of(end.pod)} was told to stop and saved its state. Kubernetes starts another."
    return end.at, Note(f"taken-away-{name_of(end.pod)}", message, "warn")


def _crash_note(end: PodEnd, number: int, restart_limit: int | None) -> tuple[str, Note]:
    what = f"The training process {end.in_words} (pod {name_of(end.pod)})."
    if restart_limit is not None and number > restart_limit:
        return end.at, Note(f"crash-{number}", what, "warn")
    count = f"restart {number}" if restart_limit is None else f"restart {number} of {restart_limit}"
    return end.at, Note(f"crash-{number}", f"{what} Kubernetes starts it again ({count}).", "warn")


def _crashes_by_index(ends: Sequence[PodEnd]) -> list[list[PodEnd]]:
    crashes = sorted((end for end in ends if end.is_crash), key=_index)
    return [list(of_index) for _, of_index in groupby(crashes, key=_index)]


def _index(end: PodEnd) -> str:
    return _label(end.pod, _INDEX_LABEL) or ""


def _label(pod: Object, key: str) -> str | None:
    label: str | None = (pod["metadata"].get("labels") or {}).get(key)
    return label
