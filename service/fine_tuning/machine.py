"""What this machine has for a trainer, read from Linux's own files: the service has no torch to ask."""

from importlib import metadata
from pathlib import Path

from tuning.memory import Device

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_GPUS = Path("/proc/driver/nvidia/gpus")


def device() -> Device:
    """Where a local trainer would train."""
    return "cuda" if _GPUS.is_dir() and any(_GPUS.iterdir()) and not _is_torch_for_cpu() else "cpu"


def available_bytes() -> int | None:
    """Memory that a new process may take; None: unknown. Blocks for a moment."""
    limits = [limit for limit in (_free_of_machine(), _free_of_cgroup()) if limit is not None]
    return min(limits, default=None)


def _free_of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def _free_of_cgroup() -> int | None:
    """A container's. Files that were read count as used there, and give way."""
    try:
        limit, used = (_CGROUP / "memory.max").read_text().strip(), int((_CGROUP / "memory.current").read_text())
        statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + int(statistics.get("inactive_file", 0)))


def _is_torch_for_cpu() -> bool:
    try:
        return "+cpu" in metadata.version("torch")
    except metadata.PackageNotFoundError:
        return False
