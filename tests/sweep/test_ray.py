"""Sweeps on a Ray cluster: a run goes on at another node where its own dies; what cannot work is refused at once."""

import os
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, wait
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.sweep import cluster as module
from holdfast.sweep import pool
from holdfast.sweep.cluster import on_ray
from holdfast.sweep.pool import carry_out
from holdfast.util.errors import HoldfastError
from tests.helpers.sweep_files import SMALL, planned
from tests.helpers.waiting import GUARD, Gate

STOPPING = """
import os, sys
if "train" in sys.orig_argv:
    from holdfast.runs.folder import Run
    whole = Run.log_step

    def log_step(self, values):
        whole(self, values)
        if values["step"] == 5 and not os.path.exists({free!r}):
            {stop}

    Run.log_step = log_step
"""
NODE = {"include_dashboard": False, "object_store_memory": 80 * 2**20}
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 2}


@pytest.mark.parametrize(
    ("devices", "jobs", "given"),
    [
        (["cuda:0"], 1, "'cuda:0'"),
        (["cpu", "cpu"], 1, "'cpu,cpu'"),
        (["mps"], 3, "'mps' with --jobs 3"),
        (["cuda + cuda"], 2, "'cuda+cuda' with --jobs 2"),
    ],
)
def test_devices_that_ray_chooses_itself_are_refused(devices: list[str], jobs: int, given: str, tmp_path: Path) -> None:
    expected = re.escape(f"device {given} is not understood on Ray (allowed: one of cpu, cuda, cuda+cuda, ")
    with pytest.raises(HoldfastError, match=expected), on_ray("auto", tmp_path, devices, jobs):
        pass


def test_without_ray_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    expected = re.escape("ray is not installed; install it: pip install 'holdfast[ray]'")
    with pytest.raises(HoldfastError, match=expected), on_ray("auto", tmp_path):
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:port", ""])
def test_where_no_cluster_answers_one_line_says_so(address: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="sweeps on Ray need the extra ray")
    with (
        pytest.raises(HoldfastError, match=f"^no Ray cluster at {address!r} .*; start one with ray start") as caught,
        on_ray(address, tmp_path / "out"),
    ):
        pass
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("named", "jobs", "nodes", "expected"),
    [
        ("", 1, [(8, 0)], (("cpu",), 8, 8, 0)),
        ("", 3, [(8, 0), (64, 0)], (("cpu",), 2, 2, 0)),
        ("cpu+cpu", 1, [(8, 0)], (("cpu", "cpu"), 4, 8, 0)),
        ("cpu", 9, [(8, 0)], (("cpu",), 1, 1, 0)),
        ("cpu", 1, [(8, 4)], (("cpu",), 8, 8, 0)),
        ("", 1, [(8, 0), (64, 4)], (("cuda:0",), 16, 16, 1)),
        ("cuda", 2, [(64, 4)], (("cuda:0",), 8, 8, 0.5)),
        ("cuda+cuda", 1, [(8, 1), (64, 4)], (("cuda:0", "cuda:1"), 16, 32, 2)),
    ],
)
def test_runs_share_nodes_evenly(
    named: str, jobs: int, nodes: list[tuple[int, int]], expected: tuple[tuple[str, ...], int, int, float]
) -> None:
    """The devices of a run, the threads of each of its processes, the CPUs and the GPUs that Ray keeps for it."""
    slot, needs = module._share([{"CPU": cpus} | ({"GPU": gpus} if gpus else {}) for cpus, gpus in nodes], named, jobs)
    assert (slot.devices, slot.threads, needs["num_cpus"], needs["num_gpus"]) == expected


@pytest.mark.parametrize(("nodes", "named"), [([], "cpu"), ([{"CPU": 8, "GPU": 1}], "cuda+cuda")])
def test_a_cluster_without_room_for_a_run_is_refused(nodes: list[dict[str, int]], named: str) -> None:
    with pytest.raises(HoldfastError, match=re.escape(f"no node of the cluster has {named} for a run")):
        module._share(nodes, named, 1)


def test_a_run_waits_for_the_lock_of_a_node_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = "train: another process (pid 7, host a) is at work in x"
    said: list[str | None] = [held, held, None, "train: no luck", held, held]
    monkeypatch.setattr(module, "execute", lambda *_: said.pop(0))
    monkeypatch.setattr(module, "PAUSE", 0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    nothing: Any = None

    def result() -> str | None:
        return module._run(nothing, nothing, tmp_path, tmp_path)

    assert [result(), result()] == [None, "train: no luck"]
    monkeypatch.setattr(module, "LEASE", 0)
    assert (result(), said) == (held, [held])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head on which nothing runs."""
    utils = pytest.importorskip("ray.cluster_utils", reason="sweeps on Ray need the extra ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    found = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": QUICK, **NODE})
    yield found
    found.shutdown()


def test_a_run_goes_on_after_an_interrupt_and_after_the_death_of_its_node(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both at its fifth step, of which four are saved. First of all a folder is refused that a node does not see."""
    gate, free = Gate(tmp_path / "gate"), tmp_path / "free"
    (tmp_path / "sitecustomize.py").write_text(STOPPING.format(stop=gate.stop(), free=str(free)))
    settings = {**SMALL, "batch.pairs": 250, "steps": 8, "optim.epochs": 2, "save_minutes": 0}
    runs = planned(tmp_path, settings=settings)
    run, first, before = runs[0].run, cluster.add_node(num_cpus=1, **NODE), list[dict[str, Any]]()
    end = time.monotonic() + GUARD

    def sweep(*meanwhile: Callable[[], object]) -> dict[Path, str]:
        left = list(meanwhile)

        def stopped(futures: Collection[Future[Any]], seconds: float) -> Any:
            assert time.monotonic() < end
            if futures and left:
                gate.arrived()
                assert run.place().step == 4
                left.pop()()
            return wait(futures, seconds)

        with monkeypatch.context() as patch:
            patch.setattr(pool, "wait", stopped)
            return carry_out(runs, on_ray(cluster.address, tmp_path / "out"), quiet=True)

    def interrupt() -> None:
        before.extend(run.steps()[:4])
        raise KeyboardInterrupt

    def kill() -> None:
        free.touch()
        cluster.add_node(num_cpus=1, **NODE)
        cluster.remove_node(first, allow_graceful=False)

    with monkeypatch.context() as patch:
        patch.setattr(module, "NamedTemporaryFile", lambda **_: nullcontext(SimpleNamespace(name="/nowhere/file")))
        with pytest.raises(HoldfastError, match=r"^node .* does not see /nowhere, which must lie on storage that all"):
            sweep()
    assert not run.folder.exists()
    with pytest.raises(KeyboardInterrupt):
        sweep(interrupt)
    assert sweep(kill) == {}
    gate.close()
    assert runs[0].trained()
    assert [line["step"] for line in run.steps()] == list(range(1, 9))
    assert run.steps()[:4] == before, "with the seconds that they took: they were not made anew"
    assert (run.folder / "log.txt").read_text().count("resumed at step 4 of 8") == 2
