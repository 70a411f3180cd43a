"""The runs of a sweep as tasks of a Ray cluster: one whose node dies goes on at another, from what it saved."""

import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from holdfast.sweep.execute import execute
from holdfast.sweep.plan import Planned
from holdfast.sweep.pool import Submit, left
from holdfast.sweep.slots import Slot
from holdfast.util.errors import HoldfastError, foreign
from holdfast.util.extras import quiet, require

DEVICE = re.compile(r"(cpu|cuda)(\+\1)*")
NODES_LOST = 10
"""By a run, before it counts as failed."""
SECONDS_TO_ANSWER, LEASE, PAUSE = 10.0, 180.0, 10.0
"""LEASE: for which a file server may keep the locks of a node that died (NFS: 90 s)."""


@contextmanager
def on_ray(address: str, out: Path, devices: Sequence[str] = (), jobs: int = 1) -> Iterator[Submit]:
    """Do runs on a cluster: Ray places each where it has room. Raises HoldfastError where a node does not see ``out``.

    address: ``HOST:PORT``, or ``auto``, the cluster of this machine. devices: of each run, ``cuda`` or ``cuda+cuda``;
    none: a GPU where the cluster has any. jobs: runs at a time on each GPU, or on the CPUs of each node.
    """
    named = "".join(",".join(devices).split())
    if (named and not DEVICE.fullmatch(named)) or ("cuda+" in named and jobs > 1):
        given = f"{named!r} with --jobs {jobs}" if jobs > 1 else repr(named)
        allowed = "one of cpu, cuda, cuda+cuda, ..., without --jobs where several GPUs do a run; Ray chooses which"
        raise HoldfastError(f"device {given} is not understood on Ray (allowed: {allowed})")
    ray = require("ray", "ray")
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    with foreign(f"no Ray cluster at {address!r}", "start one with ray start, or give its HOST:PORT"), quiet():
        if ":" in address:  # Ray itself tries for minutes
            socket.create_connection(address.rsplit(":", 1), SECONDS_TO_ANSWER).close()  # type: ignore[arg-type]
        joined = ray.init(address, log_to_driver=False)
    out.mkdir(parents=True, exist_ok=True)
    with joined, NamedTemporaryFile(prefix=".sweep-", dir=out) as marker:
        nodes = [node["Resources"] | node for node in ray.nodes() if node["Alive"] and "CPU" in node["Resources"]]
        slot, needs = _share(nodes, named, jobs)
        seen = Path.cwd(), Path(marker.name).absolute()
        _check(ray, nodes, seen)
        task = ray.remote(**needs, max_retries=NODES_LOST)(_run)
        yield lambda run: task.remote(run, slot, *seen).future()


def _share(nodes: Sequence[Mapping[str, Any]], named: str, jobs: int) -> tuple[Slot, dict[str, float]]:
    """What a run has on any node, and what Ray keeps for it: runs that fill a node have the same share of its CPUs."""
    devices = (named or ("cuda" if any("GPU" in node for node in nodes) else "cpu")).split("+")
    gpus = len(devices) if "cuda" in devices else 0
    rooms = [(node["CPU"], node["GPU"] // gpus if gpus else 1) for node in nodes if node.get("GPU", 0) >= gpus]
    if not rooms:
        raise HoldfastError(f"no node of the cluster has {'+'.join(devices)} for a run")
    cpus = max(1, min(int(cpus // (runs * jobs)) for cpus, runs in rooms))
    numbered = tuple(f"{name}:{i}" if gpus else name for i, name in enumerate(devices))
    return Slot(numbered, max(1, cpus // len(devices))), {"num_cpus": cpus, "num_gpus": gpus / jobs}


def _check(ray: Any, nodes: Sequence[Mapping[str, Any]], seen: tuple[Path, Path]) -> None:
    """Refuse a cluster of which a node cannot work on the sweep."""
    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    look = ray.remote(num_cpus=0, max_retries=0)(_enter)
    looks = [look.options(scheduling_strategy=there(node["NodeID"], soft=False)).remote(*seen) for node in nodes]
    for node, one in zip(nodes, looks, strict=True):
        if why := left(one.future()):
            raise HoldfastError(f"node {node['NodeManagerHostname']} of the cluster cannot do runs: {why}")


def _enter(folder: Path, marker: Path) -> None:
    """On a node: go to the folder of the sweep, and refuse a node on which results would be lost."""
    for path, name in (folder, folder), (marker, marker.parent):
        if not path.exists():
            raise HoldfastError(f"it does not see {name}, which must lie on storage that all nodes share")
    os.chdir(folder)


def _run(run: Planned, slot: Slot, folder: Path, marker: Path) -> str | None:
    """On a node: do what is left of a run, as soon as nothing says that a node which died still works on it."""
    _enter(folder, marker)
    os.environ.pop("OMP_NUM_THREADS", None)  # where Ray sets it, for each process, to the CPUs of all
    end = time.monotonic() + LEASE
    while (why := execute(run, slot)) and "another process" in why and time.monotonic() < end:
        time.sleep(PAUSE)
    return why
