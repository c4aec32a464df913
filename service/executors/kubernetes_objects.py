"""Reads what Kubernetes' API says of Jobs, pods, nodes and events: plain dicts in which much may be missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from service.executors.kubernetes_pod import CONTAINER_NAME

Object = Mapping[str, Any]
"""One of Kubernetes' API, as its JSON."""


@dataclass(frozen=True)
class LargestNode:
    """The most of each that any one node has for pods."""

    cpu: Decimal
    memory: Decimal
    """Bytes."""
    gpus: int


def largest_node(nodes: Iterable[Object], gpu_resource: str) -> LargestNode | None:
    """None: there are no nodes."""
    offers = [node.get("status", {}).get("allocatable", {}) for node in nodes]
    if not offers:
        return None
    return LargestNode(
        cpu=max(amount(offer.get("cpu")) for offer in offers),
        memory=max(amount(offer.get("memory")) for offer in offers),
        gpus=max(int(amount(offer.get(gpu_resource))) for offer in offers),
    )


def amount(quantity: str | int | None) -> Decimal:
    """Of Kubernetes' notation: `500m` is 0.5, `1Ki` is 1024."""
    return Decimal(parse_quantity(quantity or 0))  # type: ignore[no-untyped-call]


def name_of(item: Object) -> str:
    name: str = item["metadata"]["name"]
    return name


def is_being_deleted(item: Object) -> bool:
    return item["metadata"].get("deletionTimestamp") is not None


def true_condition(item: Object, *types: str) -> Object | None:
    return next((found for found in _conditions(item, types) if found.get("status") == "True"), None)


def false_condition(item: Object, *types: str) -> Object | None:
    return next((found for found in _conditions(item, types) if found.get("status") == "False"), None)


def container_state(pod: Object) -> Object:
    """Of the trainer: with one of the keys `waiting`, `running` and `terminated`, or none."""
    return _trainer(pod.get("status", {}).get("containerStatuses")).get("state") or {}


def container_resource(pod: Object, kind: str, resource: str) -> str | None:
    """What the trainer asks for (`kind` is `requests`) or may not exceed (`limits`)."""
    resources = _trainer(pod.get("spec", {}).get("containers")).get("resources") or {}
    quantity = (resources.get(kind) or {}).get(resource)
    return None if quantity is None else str(quantity)


def has_ended(pod: Object) -> bool:
    """Its trainer, that is: what a mesh puts beside it may go on."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed") or "terminated" in container_state(pod)


def is_running(pod: Object) -> bool:
    return not has_ended(pod) and "running" in container_state(pod)


def event_time(event: Object) -> str:
    """When it was seen last. The new events API leaves `lastTimestamp` empty."""
    series = event.get("series") or {}
    return str(
        event.get("lastTimestamp")
        or series.get("lastObservedTime")
        or event.get("eventTime")
        or event.get("firstTimestamp")
        or event["metadata"].get("creationTimestamp")
        or ""
    )


def _conditions(item: Object, types: tuple[str, ...]) -> list[Object]:
    return [found for found in item.get("status", {}).get("conditions") or [] if found.get("type") in types]


def _trainer(containers: list[Object] | None) -> Object:
    return next((container for container in containers or [] if container.get("name") == CONTAINER_NAME), {})
