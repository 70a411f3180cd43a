"""The most memory that work took: of the process, on Linux, or of a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch


class Peak:
    """bytes: the most that was in use at a time; None where the system does not say."""

    bytes: int | None = None


@contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """What the process, or the GPU of ``device``, has in use at the most inside, with all that was in use before.

    Where a process may not reset its count, the most since it began.
    """
    found = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.bytes = torch.cuda.max_memory_allocated(device)
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    yield found
    with suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text(encoding="ascii")
        found.bytes = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
