"""How much memory a cache may count on."""

import os
from contextlib import suppress
from pathlib import Path


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, a container's limit included; None where the system does not say."""
    known = []
    for measure in (_meminfo, _cgroup, _physical):
        with suppress(AttributeError, OSError, StopIteration, ValueError):
            known.append(measure())
    return min(known, default=None)


def _meminfo() -> int:
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def _cgroup() -> int:
    return int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
