"""Devices by name: which process runs on which, what it sees, and what cannot be meant."""

import os
import sys

import pytest
import torch

from holdfast.sweep.slots import slots_of
from holdfast.util.errors import HoldfastError


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


@pytest.mark.parametrize(
    ("devices", "jobs", "expected"),
    [
        ([], 1, [(1, "", None, None)]),
        ([], 2, [(1, "", "4", None)] * 2),
        (["mps"], 1, [(1, "mps", None, None)]),
        (["cpu", "cpu"], 1, [(1, "cpu", "4", None)] * 2),
        (["cpu"], 9, [(1, "cpu", "1", None)] * 9),
        (["cpu+cpu"], 1, [(2, "cpu", "4", None)]),
        (["cuda"], 1, [(1, "cuda", None, "0")]),
        (["cuda:0", "cuda:1"], 1, [(1, "cuda", "4", "0"), (1, "cuda", "4", "1")]),
        (["cuda:1"], 2, [(1, "cuda", "4", "1")] * 2),
        (["cuda:2 + cuda:0", "cuda:1"], 1, [(2, "cuda", "2", "2,0"), (1, "cuda", "2", "1")]),
    ],
)
def test_devices(devices: list[str], jobs: int, expected: list[tuple[int, str, str | None, str | None]]) -> None:
    """The processes of each slot, the device they are told, their threads, and the GPUs they see."""
    slots = slots_of(devices, jobs)
    for slot, (processes, device, threads, visible) in zip(slots, expected, strict=True):
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
        program = [sys.executable, "-m", *(torchrun if processes > 1 else []), "holdfast"]
        option = ["--device", device] if device else []
        assert slot.command("train", "--resume") == [*program, "train", "--resume", *option]
        environment = slot.environment()
        assert environment.items() >= os.environ.items()
        assert [environment.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")] == [threads, visible]


def test_what_the_environment_says_of_devices_is_held_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,GPU-1a2b")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in slots_of(["cuda:1", "cuda:2+cuda:0"])]
    assert found == ["3", "GPU-1a2b,5"]
    assert [slot.environment()["OMP_NUM_THREADS"] for slot in slots_of(["cpu", "cpu"])] == ["3", "3"]


@pytest.mark.parametrize("device", ["gpu", "", "cuda:0+", "cuda:0+cpu", "cpu+mps", "cuda:first", "cuda:-1", "cuda0"])
def test_devices_that_cannot_be_meant_are_refused(device: str) -> None:
    with pytest.raises(HoldfastError) as caught:
        slots_of([device])
    assert f"device {device!r} is not understood (allowed: cpu, mps, cuda, cuda:1" in str(caught.value)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HoldfastError, match=r"device 'cuda:3': torch finds 3 GPUs$"):
        slots_of(["cuda:0", "cuda:1+cuda:3"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(HoldfastError, match=r"device 'cuda:0': torch finds 0 GPUs \(CUDA_VISIBLE_DEVICES is set\)"):
        slots_of(["cuda"])
