"""Trainers on several nodes: an Indexed Job with a Service of its own, or a JobSet where that is installed.

Each pod learns its number, and the name of the first pod, from its environment; how many there are is in the job's
spec. Neither waits until all pods have a place: Kueue does, or a cluster that grows.
"""

from typing import Any

from service.executors.kubernetes_pod import ON_DISRUPTION, on_exit_code
from tuning.contract import ExitCode

MASTER_PORT = 29500  # torchrun's own default
_REPLICATED_JOB = "trainer"
_INDEX_ANNOTATION = "metadata.annotations['batch.kubernetes.io/job-completion-index']"

Part = dict[str, Any]


def place_in_job(pod_spec: Part, name: str) -> Part:
    """For a pod of an Indexed Job called `name`, which calls its pods `<name>-<index>`."""
    return _with_place(pod_spec, f"{name}-0.{name}") | {"subdomain": name}


def place_in_set(pod_spec: Part, name: str) -> Part:
    """For a pod of a JobSet called `name`, which makes the Service."""
    return _with_place(pod_spec, f"{name}-{_REPLICATED_JOB}-0-0.{name}")


def indexed_job(job_spec: Part, nodes: int) -> Part:
    """One pod a node. When one ends, the others lose it and end too, and each is started again in its own place: so the
    whole gang restarts without anybody to lead it, also while the service is away.

    Therefore each index counts its own failures: one crash costs every index one, and the limit stays what it is for a
    single node. Counted together, as `backoffLimit` does, one crash of eight nodes would cost eight. The first index
    that reaches its limit ends the Job.
    """
    spec = {key: value for key, value in job_spec.items() if key != "backoffLimit"}
    return spec | {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "backoffLimitPerIndex": job_spec["backoffLimit"],  # Kubernetes 1.29
        "maxFailedIndexes": 0,
    }


def headless_service(name: str, labels: dict[str, str], selector: dict[str, str]) -> Part:
    """Gives the pods stable names. Each must be found before it is ready: the first one waits for the others."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector,
            "ports": [{"name": "rendezvous", "port": MASTER_PORT}],
        },
    }


def job_set(pod: Part, name: str, nodes: int, max_restarts: int) -> Part:
    """One Job, which any pod's end fails, so that the JobSet makes it anew with all its pods. Its rules tell by the
    number of the Job's rule what happened (JobSet 0.10; an older one fails the JobSet, and the service starts anew).
    """
    rules = [
        (on_exit_code(ExitCode.USER_ERROR), "FailJobSet"),
        (on_exit_code(ExitCode.PREEMPTED), "RestartJobSetAndIgnoreMaxRestarts"),
        (ON_DISRUPTION, "RestartJobSetAndIgnoreMaxRestarts"),
    ]
    return {
        "network": {"enableDNSHostnames": True, "subdomain": name, "publishNotReadyAddresses": True},
        "failurePolicy": {
            "maxRestarts": max_restarts,
            "rules": [
                {
                    "name": f"rule{number}",
                    "action": action,
                    "onJobFailureReasons": ["PodFailurePolicy"],
                    "onJobFailureMessagePatterns": [f"matching FailJob rule at index {number}$"],
                }
                for number, (_, action) in enumerate(rules)
            ],
        },
        "replicatedJobs": [
            {
                "name": _REPLICATED_JOB,
                "replicas": 1,
                # its Job has no labels of ours: those mark what the service itself made and follows
                "template": {
                    "spec": {
                        "completionMode": "Indexed",
                        "completions": nodes,
                        "parallelism": nodes,
                        "backoffLimit": 0,
                        "podReplacementPolicy": "Failed",
                        "podFailurePolicy": {"rules": [{"action": "FailJob", **rule} for rule, _ in rules]},
                        "template": pod,
                    }
                },
            }
        ],
    }


def _with_place(pod_spec: Part, master: str) -> Part:
    [container] = pod_spec["containers"]
    place = [
        {"name": "FETTLE_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": _INDEX_ANNOTATION}}},
        {"name": "FETTLE_MASTER_ADDR", "value": master},
        {"name": "FETTLE_MASTER_PORT", "value": str(MASTER_PORT)},
    ]
    return pod_spec | {"containers": [container | {"env": place + container["env"]}]}
