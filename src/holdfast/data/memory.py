"""How much memory a cache may count on."""

import os
from pathlib import Path


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, a container's limit included; None where the system does not say."""
    known = [value for value in (_meminfo(), _cgroup(), _physical()) if value is not None]
    return min(known, default=None)


def _meminfo() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return None


def _cgroup() -> int | None:
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
