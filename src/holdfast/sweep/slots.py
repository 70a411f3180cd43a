"""Places for one run at a time: a device, or several whose processes torchrun starts."""

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from holdfast.util.errors import HoldfastError

DEVICE = re.compile(r"(cpu|mps)(\+\1)*|cuda(:\d+)?(\+cuda(:\d+)?)*")
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slot:
    """devices: none leaves the choice to the run. threads: of each process; None leaves them to torch."""

    devices: tuple[str, ...] = ()
    threads: int | None = None

    def command(self, *words: str) -> list[str]:
        """A command of ``holdfast``, as it is called here; a GPU is the first that the process sees."""
        several = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(len(self.devices)), "-m"]
        device = ["--device", self.devices[0].partition(":")[0]] if self.devices else []
        return [sys.executable, "-m", *(several if len(self.devices) > 1 else []), "holdfast", *words, *device]

    def environment(self) -> dict[str, str]:
        """The variables of its processes: the GPUs that they see, and their threads."""
        changed = ({"OMP_NUM_THREADS": str(self.threads)} if self.threads else {}) | os.environ
        if gpus := _gpus(self.devices):
            seen = os.environ.get(VISIBLE) or ",".join(map(str, range(torch.cuda.device_count())))
            changed[VISIBLE] = ",".join(seen.split(",")[gpu] for gpu in gpus)
        return changed


def slots_of(devices: Sequence[str], jobs: int = 1) -> list[Slot]:
    """``cuda:0``, ``cuda:1``: a run on each; ``cuda:0+cuda:1``: a run on both; on each of these ``jobs`` at a time.

    Where several processes work at a time they share the cores.
    """
    named = [tuple(one.replace(" ", "").split("+")) for one in devices]
    for names in named:
        if not DEVICE.fullmatch("+".join(names)):
            allowed = "cpu, mps, cuda, cuda:1, ..., cuda:0+cuda:1 for a run on both"
            raise HoldfastError(f"device {'+'.join(names)!r} is not understood (allowed: {allowed})")
        if missing := [gpu for gpu in _gpus(names) if gpu >= torch.cuda.device_count()]:
            hidden = f" ({VISIBLE} is set)" if VISIBLE in os.environ else ""
            raise HoldfastError(f"device 'cuda:{missing[0]}': torch finds {torch.cuda.device_count()} GPUs{hidden}")
    places = (named or [()]) * jobs
    processes = sum(max(1, len(names)) for names in places)
    return [Slot(names, max(1, (os.cpu_count() or 1) // processes) if processes > 1 else None) for names in places]


def _gpus(names: Sequence[str]) -> list[int]:
    return [int(name.partition(":")[2] or 0) for name in names if name.startswith("cuda")]
