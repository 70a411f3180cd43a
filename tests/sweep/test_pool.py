"""Sweeps carried out: skipped when done, resumed after a kill, no run stopped by another, every slot with its run."""

import json
import os
import threading
from collections.abc import Collection
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest

from holdfast.sweep import execute, pool
from holdfast.sweep.plan import Planned
from holdfast.sweep.pool import carry_out, in_slots
from holdfast.sweep.slots import slots_of
from holdfast.training.loop import train
from tests.helpers.runs import assert_same, together, weights
from tests.helpers.sweep_files import PLAIN, SMALL, Machine, evaluated, inside, leave, planned
from tests.helpers.waiting import GUARD, Gate, forked, until

CPU = slots_of(["cpu"])
TWO = {**PLAIN, "seed": [0, 1]}
EVALUATION = {"protocol": "cvpr22", "attacks": ["es"], "checks": False}


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(pool, "SECONDS_BETWEEN_LOOKS", 0.001)
    return monkeypatch


def machine(patch: pytest.MonkeyPatch, runs: list[Planned]) -> Machine:
    found = Machine(runs)
    patch.setattr(execute.subprocess, "call", found)
    return found


def failures(runs: list[Planned], slots: int = 1) -> dict[str, str]:
    found = carry_out(runs, in_slots(CPU * slots), quiet=True)
    assert found.keys() == {run.folder for run in runs if not is_done(run)}
    return {folder.name: why for folder, why in found.items()}


def is_done(run: Planned) -> bool:
    try:
        return run.trained() and not run.missing()
    except ValueError:
        return False


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("step 1\nTraceback\nValueError: no luck\n", "exit status 1: ValueError: no luck"),
        ("step 1\nholdfast: the loss is nan\nChildFailedError\n======\n", "the loss is nan"),
        ("holdfast: another process (pid 7) is at work here\n", "another process (pid 7) is at work here"),
    ],
)
def test_a_failure_stops_no_other_and_is_tried_again(
    said: str, why: str, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    runs = planned(tmp_path, {**PLAIN, "seed": [0, 1, 2]})
    processes, bad = machine(patch, runs), runs[1]
    processes.fails[f"train {bad.name}"] = said
    assert failures(runs) == {bad.name: f"train: {why}"}
    assert processes.calls == [f"train {run.name}" for run in runs]
    assert said in (bad.folder / "log.txt").read_text()
    processes.fails.clear()
    assert not failures(runs)
    assert processes.calls[3:] == [f"train {bad.name}"], "what was done is not done again"


def test_an_exit_status_of_0_is_not_enough(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    """A run is done when its folder says so."""
    runs = planned(tmp_path, TWO, evaluations=[EVALUATION])
    leave(runs[0])
    patch.setattr(execute.subprocess, "call", lambda *_, **__: 0)
    assert failures(runs) == {
        runs[0].name: "evaluate cvpr22: exit status 0: ",
        runs[1].name: "train: exit status 0: ",
    }


def test_a_failed_evaluation_is_named_and_made_again(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    (run,) = runs = planned(tmp_path, evaluations=[{"protocol": "benign"}, EVALUATION])
    processes = machine(patch, runs)
    leave(run)
    evaluated(run, run.evaluations[0])
    processes.fails["evaluate none-r"] = "holdfast: no attack\n"
    assert failures(runs) == {"none-r": "evaluate cvpr22: no attack"}
    processes.fails.clear()
    assert not failures(runs)
    assert processes.calls == ["evaluate none-r"] * 2


@pytest.mark.parametrize("damage", ["state.safetensors", "steps.jsonl", "the folder"])
def test_damage_is_a_failure_of_its_run(damage: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    runs = bad, good = planned(tmp_path, TWO, evaluations=[EVALUATION])
    processes = machine(patch, runs)
    if damage == "the folder":
        bad.folder.parent.mkdir(parents=True)
        bad.folder.write_text("a file in its place")
    else:
        leave(bad)
        evaluated(bad, bad.evaluations[0])
        (bad.folder / damage).write_text("no line\n")
    assert (damage if damage != "the folder" else bad.name) in failures(runs)[bad.name]
    assert processes.calls == [f"train {good.name}", f"evaluate {good.name}"]


@pytest.mark.parametrize("slots", [1, 3])
def test_the_start_comes_first_and_what_needs_it_is_not_trained_without(
    slots: int, tmp_path: Path, patch: pytest.MonkeyPatch
) -> None:
    runs = start, *others = planned(tmp_path, TWO, start={"recipe": "none-s"})
    processes = machine(patch, runs)
    processes.fails["train start"] = "holdfast: no luck\n"
    without = dict.fromkeys((run.name for run in others), f"the run it starts from is not trained: {start.folder}")
    assert failures(runs, slots) == {"start": "train: no luck", **without}
    assert processes.calls == ["train start"]
    processes.fails.clear()
    assert not failures(runs, slots)
    assert processes.calls[1] == "train start"
    assert sorted(processes.calls[2:]) == [f"train {run.name}" for run in others]


def test_every_slot_has_a_run(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    runs = planned(tmp_path, TWO)
    both = threading.Barrier(2)
    machine(patch, runs).meanwhile = lambda *_: both.wait(GUARD)
    assert not failures(runs, slots=2)


def test_an_interrupt_ends_the_processes_and_nothing_else_begins(tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
    runs = planned(tmp_path, TWO)
    processes, begun = machine(patch, runs), threading.Event()

    def meanwhile(run: Planned, stdin: int) -> None:
        begun.set()
        assert os.read(stdin, 1) == b"", "a process ends here"
        processes.fails[f"train {run.name}"] = "ended"

    def interrupted(futures: Collection[Future[Any]], seconds: float) -> Any:
        if not futures:
            return wait(futures, seconds)
        assert begun.wait(GUARD)
        raise KeyboardInterrupt

    processes.meanwhile = meanwhile
    patch.setattr(pool, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carry_out(runs, in_slots(CPU), quiet=True)
    assert processes.calls == [f"train {runs[0].name}"]


def test_progress_says_what_is_done_and_at_work(
    tmp_path: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps are those of the logs; a run that is over has no more to make."""
    runs = planned(tmp_path, {**PLAIN, "seed": [0, 1, 2]}, settings={**SMALL, "steps": 50}, evaluations=[EVALUATION])
    leave(runs[0])
    evaluated(runs[0], runs[0].evaluations[0])
    runs[2].folder.mkdir()
    runs[2].run.steps_file.write_text('{"step": 1}\n' * 7)
    processes, looks = machine(patch, runs), []
    processes.fails[f"train {runs[1].name}"] = "no luck"

    def meanwhile(run: Planned, stdin: int) -> None:
        if run is runs[2]:
            made, what = (150, "evaluate") if run.trained() else (107, "train 7/50")
            until(lambda: (made, 150, f"1 of 3 runs done, 1 failed; {run.name}: {what}") in looks)

    processes.meanwhile = meanwhile
    patch.setattr(pool.Progress, "__call__", lambda _, *look: looks.append(look))
    assert carry_out(runs, in_slots(CPU)).keys() == {runs[1].folder}
    assert len(processes.calls) == 3
    assert capsys.readouterr().out.splitlines() == ["sweep: 2 of 3 runs done, 1 failed"]


# ---- with holdfast itself -------------------------------------------------------------------------------------------


STOPPING = """
import sys
if "train" in sys.orig_argv:
    from holdfast.runs.folder import Run
    whole = Run.log_step
    alive = open({alive!r}, "wb", 0)

    def log_step(self, values):
        whole(self, values)
        if values["step"] == 5:
            {stop}

    Run.log_step = log_step
"""


@pytest.mark.parametrize("device", ["cpu", "cpu+cpu"])
def test_a_run_ends_with_its_killed_sweep_and_the_next_goes_on_to_the_same_weights(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the fifth step, in the second epoch, of which only four are saved; of one process, and of two."""
    gate, alive = Gate(tmp_path / "gate"), tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    (tmp_path / "sitecustomize.py").write_text(STOPPING.format(stop=gate.stop(), alive=str(alive)))
    settings = {**SMALL, "batch.pairs": 250, "steps": 8, "optim.epochs": 2, "save_minutes": 0, "optim.ema": 0.9}
    runs = planned(tmp_path, {"recipe": "hm-s-lga-ics"}, settings=settings)
    run, slots = runs[0].run, slots_of([device])
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
        sweep = forked(lambda: carry_out(runs, in_slots(slots), quiet=True))
    try:
        gate.arrived()
    finally:
        sweep.kill()
        sweep.join()
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b"", "this comes back when the last process of the run has ended"
    os.close(reader)
    gate.close()
    assert [line["step"] for line in run.steps()] == [1, 2, 3, 4, 5]
    assert (run.place().step, runs[0].trained()) == (4, False)

    monkeypatch.setattr(execute.subprocess, "call", inside)
    assert not carry_out(runs, in_slots(slots), quiet=True)
    processes = len(slots[0].devices)
    assert json.loads((run.folder / "environment.json").read_text())["processes"] == processes
    assert [line["step"] for line in run.steps()] == list(range(1, 9))
    whole = tmp_path / "whole"
    together(lambda: train(runs[0].config, whole, quiet=True), processes)
    assert_same(weights(whole), weights(run.folder))
