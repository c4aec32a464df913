"""How much memory a job would take, and whether there is as much where it would run."""

import asyncio
from collections.abc import Mapping
from typing import Any

from service.fine_tuning import machine
from service.fine_tuning.estimate_schemas import MemoryEstimate, MemoryPartsBody, Reason
from service.fine_tuning.resolution import ResolvedValue
from service.settings import Settings
from tuning.catalogue import CatalogueEntry, CatalogueError
from tuning.contract import MethodName
from tuning.data.receipt import DataReceipt
from tuning.memory import Device, Training, error_percent, micro_batch_tokens, predict
from tuning.model_shape import ModelShape, read_shape
from tuning.resources import TrainingResources

SHAPE_SECONDS = 20
"""For the headers of a base model that was not fetched yet, from the hub."""


async def estimate_memory(
    entry: CatalogueEntry,
    method: MethodName,
    values: Mapping[str, ResolvedValue] | None,
    receipt: DataReceipt | None,
    resources: TrainingResources | None,
    settings: Settings,
) -> MemoryEstimate:
    """`values` and `receipt` are None where the files are refused. `resources`: on a cluster, of each node."""
    device = _device(resources, await asyncio.to_thread(machine.device))
    available = await _available(device, resources, settings)
    if values is None or receipt is None:
        return _unknown(device, available, "the longest row decides about it, and the files are refused")
    if values["adaptation"].value not in ("lora", "qlora"):
        return _unknown(device, available, f"nothing is known of adaptation '{values['adaptation'].value}'")
    try:
        async with asyncio.timeout(SHAPE_SECONDS):
            shape = await asyncio.to_thread(read_shape, entry)
    except CatalogueError as error:
        return _unknown(device, available, str(error))
    except TimeoutError:
        return _unknown(device, available, f"the hub did not tell the shape of {entry.source} in {SHAPE_SECONDS} s")
    return _predicted(shape, entry, _training(device, method, values, receipt), values, available)


def shortage(memory: MemoryEstimate, settings: Settings, values: Mapping[str, ResolvedValue] | None) -> Reason | None:
    """A warning when there is less than it needs."""
    if memory.bytes is None or memory.available_bytes is None or memory.bytes <= memory.available_bytes:
        return None
    is_cluster = settings.executor == "kubernetes"
    remedies = ["x_training.resources.memory to more"] if is_cluster else []
    remedies += _remedies(values or {})
    where = "each node is asked to have" if is_cluster else "there are"
    message = (
        f"Training needs about {_gigabytes(memory.bytes)} of memory, and {where} {_gigabytes(memory.available_bytes)}. "
        f"Set {', or '.join(remedies)}; or take a smaller base model."
    )
    return Reason(message=message, param=remedies[0].partition(" ")[0], code="not_enough_memory")


def _device(resources: TrainingResources | None, own: Device) -> Device:
    if resources is None:
        return own
    return "cuda" if resources.gpus else "cpu"


async def _available(device: Device, resources: TrainingResources | None, settings: Settings) -> int | None:
    """Of a GPU nothing is known: the service does not see it."""
    if device == "cuda":
        return None
    if resources is None:
        return await asyncio.to_thread(machine.available_bytes) if settings.role == "all" else None
    return None if resources.memory is None else quantity_in_bytes(resources.memory)


def quantity_in_bytes(quantity: str) -> int:
    """`64Gi`, as Kubernetes writes it."""
    number = quantity.rstrip("mkKMGTi")
    units = {"": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
    units |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
    return int(float(number) * units[quantity[len(number) :]])


def _training(
    device: Device, method: MethodName, values: Mapping[str, ResolvedValue], receipt: DataReceipt
) -> Training:
    value: dict[str, Any] = {name: resolved.value for name, resolved in values.items()}
    targets = value["target_modules"]
    return Training(
        device=device,
        dtype=value["precision"],
        method=method,
        r=value["r"],
        target_modules=targets if isinstance(targets, str) else tuple(targets),
        lora_dropout=value["lora_dropout"],
        is_quantized=value["adaptation"] == "qlora",
        batch_size=value["batch_size"] * value.get("samples_per_prompt", 1),
        longest_row=receipt.longest_row_tokens + value.get("max_completion_tokens", 0),
    )


def _predicted(
    shape: ModelShape,
    entry: CatalogueEntry,
    training: Training,
    values: Mapping[str, ResolvedValue],
    available: int | None,
) -> MemoryEstimate:
    with_it, without = (predict(shape, training, is_checkpointed=is_on) for is_on in (True, False))
    is_checkpointed = values["gradient_checkpointing"].value is True  # `auto` is off until a step does not fit
    parts = with_it if is_checkpointed else without
    error = error_percent(training)
    measured = "" if error is not None else "; not measured for such jobs"
    return MemoryEstimate(
        bytes=parts.total,
        parts=MemoryPartsBody(**vars(parts)),
        device=training.device,
        gradient_checkpointing=is_checkpointed,
        bytes_with_gradient_checkpointing=with_it.total,
        bytes_without_gradient_checkpointing=without.total,
        error_percent=error,
        available_bytes=available,
        because=f"predicted from the shape of {entry.name} and micro-batches of up to "
        f"{micro_batch_tokens(training):,} tokens{measured}",
    )


def _unknown(device: Device, available: int | None, because: str) -> MemoryEstimate:
    return MemoryEstimate(
        bytes=None,
        parts=None,
        device=device,
        gradient_checkpointing=False,
        bytes_with_gradient_checkpointing=None,
        bytes_without_gradient_checkpointing=None,
        error_percent=None,
        available_bytes=available,
        because=because,
    )


def _remedies(values: Mapping[str, ResolvedValue]) -> list[str]:
    """What is not set yet, and what costs least comes first."""
    value = {name: resolved.value for name, resolved in values.items()}
    remedies = []
    if value["gradient_checkpointing"] is not True:
        remedies.append("x_training.gradient_checkpointing to true")
    if value["precision"] == "float32":
        remedies.append("x_training.precision to bfloat16")
    if value["adaptation"] == "lora":
        remedies.append("x_training.adaptation to qlora")
    return [*remedies, "x_training.max_length lower"]


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
