"""Devices by name: which process runs on which, what it sees, and what cannot be meant."""

import os
import sys

import pytest
import torch

from holdfast.sweep.dispatch import slots_of
from holdfast.util.errors import HoldfastError

HOLDFAST = [sys.executable, "-m", "holdfast"]


def torchrun(processes: int) -> list[str]:
    options = ["--standalone", "--nproc-per-node", str(processes), "-m", "holdfast"]
    return [sys.executable, "-m", "torch.distributed.run", *options]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


@pytest.mark.parametrize(
    ("devices", "programs", "options", "threads", "visible"),
    [
        ([], [HOLDFAST], [[]], [None], [None]),
        (["cpu"], [HOLDFAST], [["--device", "cpu"]], [None], [None]),
        (["mps"], [HOLDFAST], [["--device", "mps"]], [None], [None]),
        (["cpu", "cpu"], [HOLDFAST] * 2, [["--device", "cpu"]] * 2, ["4"] * 2, [None] * 2),
        (["cpu"] * 9, [HOLDFAST] * 9, [["--device", "cpu"]] * 9, ["1"] * 9, [None] * 9),
        (["cuda"], [HOLDFAST], [["--device", "cuda"]], [None], ["0"]),
        (["cuda:0", "cuda:1"], [HOLDFAST] * 2, [["--device", "cuda"]] * 2, [None] * 2, ["0", "1"]),
        (["cuda:2+cuda:0"], [torchrun(2)], [["--device", "cuda"]], [None], ["2,0"]),
        (["cuda:0 + cuda:1", "cuda:2"], [torchrun(2), HOLDFAST], [["--device", "cuda"]] * 2, [None] * 2, ["0,1", "2"]),
        (["cpu+cpu"], [torchrun(2)], [["--device", "cpu"]], ["4"], [None]),
        (
            ["cuda:0", "cpu", "cpu+cpu+cpu"],
            [HOLDFAST, HOLDFAST, torchrun(3)],
            [["--device", "cuda"], *[["--device", "cpu"]] * 2],
            [None, "2", "2"],
            ["0", None, None],
        ),
    ],
)
@pytest.mark.usefixtures("bare")
def test_devices(
    devices: list[str],
    programs: list[list[str]],
    options: list[list[str]],
    threads: list[str | None],
    visible: list[str | None],
) -> None:
    slots = slots_of(devices)
    assert [slot.program() for slot in slots] == programs
    assert [slot.device() for slot in slots] == options
    assert [slot.environment().get("OMP_NUM_THREADS") for slot in slots] == threads
    assert [slot.environment().get("CUDA_VISIBLE_DEVICES") for slot in slots] == visible
    assert all(slot.environment().items() >= os.environ.items() for slot in slots)


@pytest.mark.usefixtures("bare")
def test_what_the_environment_says_of_devices_is_held_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3,GPU-1a2b")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = [slot.environment()["CUDA_VISIBLE_DEVICES"] for slot in slots_of(["cuda:1", "cuda:2+cuda:0"])]
    assert found == ["3", "GPU-1a2b,5"]
    assert [slot.environment()["OMP_NUM_THREADS"] for slot in slots_of(["cpu", "cpu"])] == ["3", "3"]
    assert slots_of(["cpu"])[0].environment() == dict(os.environ)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (["gpu"], r"device 'gpu' is not understood \(allowed: cpu, mps, cuda, cuda:1"),
        ([""], "device '' is not understood"),
        (["cuda:0+"], r"device 'cuda:0\+' is not understood"),
        (["cuda:0+cpu"], r"device 'cuda:0\+cpu' is not understood"),
        (["cuda:first"], "device 'cuda:first' is not understood"),
        (["cuda:-1"], "device 'cuda:-1' is not understood"),
        (["cuda0"], "device 'cuda0' is not understood"),
        (["cuda:0", "cuda:0"], "device 'cuda:0' is named twice; a GPU takes one run at a time"),
        (["cuda:1+cuda:1"], "device 'cuda:1' is named twice"),
        (["cuda:0+cuda:1", "cuda:1"], "device 'cuda:1' is named twice"),
        (["cuda", "cuda:0"], "device 'cuda.*' is named twice"),
    ],
)
def test_devices_that_cannot_be_meant_are_refused(devices: list[str], message: str) -> None:
    with pytest.raises(HoldfastError, match=message):
        slots_of(devices)


@pytest.mark.usefixtures("bare")
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HoldfastError, match=r"device 'cuda:3': torch finds 3 GPUs$"):
        slots_of(["cuda:0", "cuda:3"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(HoldfastError, match=r"device 'cuda:0': torch finds 0 GPUs \(CUDA_VISIBLE_DEVICES is set\)"):
        slots_of(["cuda"])
