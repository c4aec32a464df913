"""Why pods of an execution are not there or do not run, in plain words, with what to do.

The words do not repeat counts of nodes or of free GPUs: those change all the time, and a note is told once.
"""

import re
from collections.abc import Iterator, Sequence

from service.executors.base import Note
from service.executors.kubernetes_objects import (
    LargestNode,
    Object,
    amount,
    container_resource,
    container_state,
    event_time,
    false_condition,
    name_of,
)
from service.executors.kubernetes_settings import QUEUE_NAME_LABEL

TimedNote = tuple[str, Note]
"""With its time, as Kubernetes writes it."""

_SETTINGS = "the training settings (FETTLE_KUBERNETES_FILE)"
_GIBIBYTE = 2**30

# --- no node takes the pod --------------------------------------------------------------------------------------------

_INSUFFICIENT = re.compile(r"Insufficient ([\w./-]*\w)")
_RESOURCES = {"cpu": "CPUs", "memory": "memory", "ephemeral-storage": "local disk"}
_TAINT = re.compile(r"taints? \{([^:}]+)")
_SCHEDULER_WORDS = (
    # (what the scheduler says, key, what we say)
    (
        r"didn't match.*(affinity|selector)",
        "affinity",
        f"nodes are not of the kind that {_SETTINGS} want: see nodeSelector and affinity there",
    ),
    (
        r"persistentvolumeclaim|volume node affinity|unbound immediate|available persistent volumes",
        "volume",
        f"a volume of {_SETTINGS} is missing or cannot be reached from the nodes: see modelCache and volumes there",
    ),
    (r"were unschedulable", "cordoned", "nodes are closed for new pods (kubectl uncordon opens them)"),
    (r"topology spread", "spread", f"topologySpreadConstraints of {_SETTINGS} allow no node that is free"),
    (r"no nodes available", "no-nodes", "the cluster has no nodes yet"),
    (r"Too many pods", "pods", "nodes have as many pods as they may"),
)


def scheduling_notes(
    pod: Object, events: Sequence[Object], gpu_resource: str, largest: LargestNode | None
) -> Iterator[TimedNote]:
    at, message = _scheduler_says(pod, events)
    if not message:
        return
    asked = _asked(pod, gpu_resource)
    if too_much := _more_than_any_node_has(asked, gpu_resource, largest):
        yield (
            at,
            Note(
                "no-node-large-enough",
                f"No node of the cluster is large enough: {too_much}. The job waits until such a node is added. "
                "Cancel it and ask for less if none will be.",
                "error",
            ),
        )
        return
    reasons = _scheduling_reasons(message, asked, gpu_resource)
    words = "; ".join(reasons.values()) or f"the scheduler says: {message}"
    hedge = ""
    if largest is None and any(key.startswith("short-") for key in reasons):
        hedge = " If no node is ever that large, cancel the job and ask for less."
    key = ",".join(sorted(reasons)) or "other"
    yield at, Note(f"waits-{key}", f"Waiting for a place: {words}. It starts as soon as there is one.{hedge}", "warn")


def _scheduler_says(pod: Object, events: Sequence[Object]) -> tuple[str, str]:
    """When, and what; the condition is newer than the event, and outlives it."""
    condition = false_condition(pod, "PodScheduled")
    if condition is not None and condition.get("reason") == "Unschedulable":
        at, message = str(condition.get("lastTransitionTime") or ""), condition.get("message") or ""
    else:
        event = _newest(events, pod, "FailedScheduling")
        if event is None or (pod.get("spec") or {}).get("nodeName"):
            return "", ""
        at, message = event_time(event), event.get("message") or ""
    return at, message.split(" preemption:")[0].strip().rstrip(".")


def _scheduling_reasons(message: str, asked: dict[str, str], gpu_resource: str) -> dict[str, str]:
    reasons = {}
    for resource in _INSUFFICIENT.findall(message):
        what = "GPUs" if resource == gpu_resource else _RESOURCES.get(resource, "places")
        how_much = f"{resource}: {asked[resource]}" if resource in asked else resource
        reasons[f"short-{resource}"] = f"no node has enough {what} free ({how_much})"
    if "taint" in message:
        names = ", ".join(sorted({name.strip() for name in _TAINT.findall(message)}))
        of = f" ({names})" if names else ""
        reasons["taint"] = f"nodes have taints{of} that tolerations of {_SETTINGS} do not name"
    found = (entry for entry in _SCHEDULER_WORDS if re.search(entry[0], message, re.IGNORECASE))
    return reasons | {key: words for _, key, words in found}


def _asked(pod: Object, gpu_resource: str) -> dict[str, str]:
    asked = {name: container_resource(pod, "requests", name) for name in (*_RESOURCES, gpu_resource)}
    return {name: quantity for name, quantity in asked.items() if quantity is not None}


def _more_than_any_node_has(asked: dict[str, str], gpu_resource: str, largest: LargestNode | None) -> str:
    if largest is None:
        return ""
    findings = []
    if amount(asked.get(gpu_resource)) > largest.gpus:
        findings.append(f"the job asks for {asked[gpu_resource]} GPUs ({gpu_resource}), and no node has more than "
                        f"{largest.gpus}")  # fmt: skip
    if amount(asked.get("cpu")) > largest.cpu:
        findings.append(f"the job asks for {asked['cpu']} CPUs, and no node has more than {largest.cpu.normalize():f}")
    if amount(asked.get("memory")) > largest.memory:
        has = f"{largest.memory / _GIBIBYTE:.1f}Gi"
        findings.append(f"the job asks for {asked['memory']} of memory, and no node has more than {has}")
    return "; ".join(findings)


# --- a node has it, and it does not start -----------------------------------------------------------------------------

_IMAGE_REASONS = (
    *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
    *("RegistryUnavailable", "SignatureValidationFailed"),
)
_CONTAINER_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_NODE_EVENTS = {
    "FailedMount": "a volume cannot be mounted",
    "FailedAttachVolume": "a volume cannot be attached to its node",
    "FailedCreatePodSandBox": "its node cannot prepare it (network or runtime class)",
}


def starting_notes(pod: Object, events: Sequence[Object]) -> Iterator[TimedNote]:
    waiting = container_state(pod).get("waiting") or {}
    reason, created = waiting.get("reason") or "", str(pod["metadata"].get("creationTimestamp") or "")
    if reason in _IMAGE_REASONS:
        yield created, _image_note(pod, waiting, events)
    elif reason in _CONTAINER_REASONS:
        message = (
            f"The trainer's container cannot be made: {waiting.get('message') or reason}. If a Secret or ConfigMap is "
            f"missing, create it or take it out of env and envFrom in {_SETTINGS}; Kubernetes tries again."
        )
        yield created, Note("container", message, "warn")
    else:
        for kind, words in _NODE_EVENTS.items():
            if (event := _newest(events, pod, kind)) is not None:
                message = f"The pod cannot start: {words}. Kubernetes says: {_short(event)} It tries again."
                yield event_time(event), Note(f"start-{kind}", message, "warn")


def _image_note(pod: Object, waiting: Object, events: Sequence[Object]) -> Note:
    containers = (pod.get("spec") or {}).get("containers") or [{}]
    image, reason = containers[0].get("image"), waiting["reason"]
    cause = waiting.get("message") or ""
    if reason == "ImagePullBackOff":  # it says only that it waits; the event before said why
        pull = _newest(events, pod, "Failed", containing="pull image")
        cause = (pull.get("message") or "") if pull is not None else cause
    what = "is not an image's name" if reason == "InvalidImageName" else "cannot be pulled"
    message = (
        f"The image {image} {what}{f': {_cut(cause)}' if cause else ''}. Check `image` and, for a private registry, "
        f"`imagePullSecrets` in {_SETTINGS}; Kubernetes tries again."
    )
    return Note("image", message, "error" if reason in ("InvalidImageName", "ErrImageNeverPull") else "warn")


def node_notes(pod: Object, events: Sequence[Object]) -> Iterator[TimedNote]:
    """Of a pod that runs, as far as anybody knows."""
    event = _newest(events, pod, "NodeNotReady")
    is_unready = false_condition(pod, "Ready") is not None
    if pod.get("status", {}).get("reason") == "NodeLost" or (event is not None and is_unready):
        message = (
            f"The node of the pod {name_of(pod)} no longer answers. If it does not come back, Kubernetes starts the "
            "training elsewhere once the node is deleted."
        )
        yield event_time(event) if event is not None else "", Note(f"node-lost-{name_of(pod)}", message, "warn")


# --- there is no pod yet ----------------------------------------------------------------------------------------------

_REFUSALS = (
    # (in Kubernetes' message, key, what to do)
    (
        "exceeded quota",
        "quota",
        "The namespace's ResourceQuota is used up. It starts when others end or the operator raises the quota",
    ),
    (
        "violates PodSecurity",
        "pod-security",
        f"The namespace's Pod Security level forbids something of {_SETTINGS}, such as hostNetwork or hostPath volumes",
    ),
    ("serviceaccount", "service-account", f"Create the service account, or change serviceAccountName in {_SETTINGS}"),
    ("PriorityClass", "priority-class", f"Create the priority class, or change priorityClassName in {_SETTINGS}"),
    ("RuntimeClass", "runtime-class", f"Create the runtime class, or change runtimeClassName in {_SETTINGS}"),
)
_CREATION_REASONS = ("FailedCreate", "JobCreationFailed")


def refusal_notes(events: Sequence[Object]) -> Iterator[TimedNote]:
    """Of pods that Kubernetes does not make."""
    for event in events:
        if event.get("reason") not in _CREATION_REASONS:
            continue
        message = event.get("message") or ""
        found = next((entry for entry in _REFUSALS if entry[0].lower() in message.lower()), None)
        key, advice = (found[1], found[2]) if found else ("other", "Kubernetes tries again")
        words = f"Kubernetes does not make the pod: {_short(event)} {advice}."
        yield event_time(event), Note(f"refused-{key}", words, "warn")


def suspension_notes(job: Object, events: Sequence[Object]) -> Iterator[TimedNote]:
    """Of a Job that Kueue, or somebody, has not let in."""
    queue = (job["metadata"].get("labels") or {}).get(QUEUE_NAME_LABEL)
    created = str(job["metadata"].get("creationTimestamp") or "")
    if queue is None:
        kind = job.get("kind") or "Job"
        command = f"""kubectl patch {kind.lower()} {name_of(job)} --type merge -p '{{"spec":{{"suspend":false}}}}'"""
        message = f"The {kind} {name_of(job)} is suspended, and in no queue. Whoever did that can resume it: {command}"
        yield created, Note("suspended", message, "warn")
        return
    yield created, Note("queue", f"Waiting in Kueue's queue {queue}.")
    pending = [event for event in events if event.get("reason") == "Pending" and _is_of_kueue(event)]
    if pending:
        newest = max(pending, key=event_time)
        yield event_time(newest), _pending_note(newest.get("message") or "", queue)


def _pending_note(message: str, queue: str) -> Note:
    said = _cut(re.sub(r",? \d\S* more needed", "", message)).rstrip(".")
    if re.search(r"maximum capacity|insufficient quota", message):
        advice = "It asks for more than the queue ever has: cancel the job and ask for less, or have the quota raised."
        return Note("queue-never", f"Kueue cannot let the job in: {said}. {advice}", "error")
    if re.search(r"doesn't exist|not found|inactive|is stopped", message):
        advice = f"The operator must put the queue {queue} in order."
        return Note("queue-broken", f"Kueue cannot let the job in: {said}. {advice}", "error")
    return Note("queue-full", f"Kueue has no quota left for the job now: {said}. It is let in when others end.")


def admission_notes(events: Sequence[Object]) -> Iterator[TimedNote]:
    """What Kueue did so far."""
    for event in events:
        if not _is_of_kueue(event):
            continue
        reason, message = event.get("reason") or "", _cut(event.get("message") or "").rstrip(".")
        identity = f"{event['metadata'].get('name', '')}-{event.get('count') or 1}"
        if reason == "Admitted":
            yield event_time(event), Note(f"queue-admitted-{identity}", "Kueue has let the job in.")
        elif reason.startswith("EvictedDueTo"):
            words = (
                f"Kueue has taken the job's place away: {message}. It waits in the queue again and goes on from there."
            )
            yield event_time(event), Note(f"queue-evicted-{identity}", words, "warn")


def _is_of_kueue(event: Object) -> bool:
    return bool(event["involvedObject"].get("kind") == "Workload")


def _newest(events: Sequence[Object], item: Object, reason: str, containing: str = "") -> Object | None:
    found = [
        event
        for event in events
        if event.get("reason") == reason
        and event["involvedObject"].get("name") == name_of(item)
        and containing in (event.get("message") or "")
    ]
    return max(found, key=event_time, default=None)


def _short(event: Object) -> str:
    return _cut(event.get("message") or event.get("reason") or "").rstrip(".") + "."


def _cut(text: str) -> str:
    longest = 400
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[:longest]}…"
