"""Sweeps carried out: skipped when done, resumed after a kill, a failure recorded, every device with its run."""

import fcntl
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from holdfast.report import find
from holdfast.runs.config import resolve_config
from holdfast.runs.folder import Run
from holdfast.sweep import dispatch as module
from holdfast.sweep.dispatch import TRAIN, Board, Slot, dispatch, slots_of
from holdfast.sweep.plan import Planned
from holdfast.training.loop import train
from holdfast.util.progress import Progress
from tests.helpers.sweep_files import PLAIN, SMALL, evaluated, inside, leave, planned
from tests.helpers.waiting import Gate, forked, meanwhile, until

CPU = slots_of(["cpu"])
TWO = {**PLAIN, "seed": [0, 1]}
EVALUATION = {"protocol": "cvpr22", "attacks": ["es"], "checks": False}


def names(runs: list[Planned]) -> list[str]:
    return [run.name for run in runs]


def failures(board: Board) -> dict[str, str]:
    return {folder.name: why for folder, why in board.failed.items()}


def failure(run: Planned) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run.folder / "failure.json").read_text())
    return content


def is_free(folder: Path) -> bool:
    """Whether no process holds the lock of a run."""
    with (folder / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def taken(folder: Path) -> Iterator[None]:
    """As if another process were at work on a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.close()


# ---- what a run does, by a script in its place ----------------------------------------------------------------------

SCRIPT = """
import shutil, sys
from pathlib import Path

ways, verb, words = Path(sys.argv[1]), sys.argv[3], sys.argv[4:]
folder = Path(words[words.index("--out") + 1] if verb == "train" else words[0])
way = ways / f"{verb} {folder.name}"
with (ways / "calls").open("a") as file:
    file.write(f"{verb} {folder.name}\\n")
if (way / "message").exists():
    sys.exit((way / "message").read_text())
if (way / "stop").exists():
    exec((way / "stop").read_text())
if way.exists():
    shutil.copytree(way, folder, dirs_exist_ok=True)
"""


class Ways:
    """What the script does with each run: come to its end, stop at a gate, or fail with a message."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def way(self, verb: str, run: Planned) -> Path:
        way = self.folder / f"{verb} {run.name}"
        way.mkdir(exist_ok=True)
        return way

    def ends(self, *runs: Planned) -> None:
        for run in runs:
            leave(replace(run, folder=self.way(TRAIN, run)))

    def fails(self, run: Planned, message: str = "no luck", verb: str = TRAIN) -> None:
        (self.way(verb, run) / "message").write_text(message)

    def mended(self, run: Planned, verb: str = TRAIN) -> None:
        (self.way(verb, run) / "message").unlink()

    def stops(self, run: Planned, gate: Gate) -> None:
        (self.way(TRAIN, run) / "stop").write_text(gate.stop())

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ways:
    found, script = Ways(tmp_path / "ways"), tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(
        Slot, "program", lambda _: [sys.executable, "-S", "-E", str(script), str(found.folder), "holdfast"]
    )
    return found


def test_a_failure_is_written_down_and_goes_when_it_is_mended(tmp_path: Path, ways: Ways) -> None:
    runs = planned(tmp_path, {**PLAIN, "seed": [0, 1, 2]})
    first, bad, last = runs
    ways.ends(*runs)
    ways.fails(bad, "Traceback\nValueError: no luck")
    board = dispatch(runs, CPU, quiet=True)
    assert names(board.done) == names([first, last])
    assert failures(board) == {bad.name: "train: ValueError: no luck"}
    assert failure(bad) == {**failure(bad), "what": "train", "status": 1}
    assert failure(bad)["message"].endswith("Traceback\nValueError: no luck")
    assert ways.calls() == [f"train {run.name}" for run in runs]
    ways.mended(bad)
    board = dispatch(runs, CPU, quiet=True)
    assert names(board.done) == names(runs)
    assert not board.failed
    assert not (bad.folder / "failure.json").exists()
    assert ways.calls()[3:] == [f"train {bad.name}"], "what was done is not done again"


def test_an_exit_status_of_0_is_not_enough(tmp_path: Path, ways: Ways) -> None:
    """A run is trained when its state says so."""
    runs = planned(tmp_path)
    ways.way(TRAIN, runs[0])
    board = dispatch(runs, CPU, quiet=True)
    assert list(failures(board)) == ["none-r"]
    assert not board.done


def test_a_failed_evaluation_is_named(tmp_path: Path, ways: Ways) -> None:
    runs = planned(tmp_path, evaluations=[EVALUATION, {"protocol": "strict"}])
    leave(runs[0])
    ways.fails(runs[0], "no attack", verb="evaluate")
    assert failures(dispatch(runs, CPU, quiet=True)) == {"none-r": "evaluate cvpr22: no attack"}
    assert failure(runs[0])["what"] == "evaluate cvpr22"
    ways.mended(runs[0], verb="evaluate")
    assert names(dispatch(runs, CPU, quiet=True).done) == ["none-r"]
    assert ways.calls() == ["evaluate none-r"] * 3
    assert not (runs[0].folder / "failure.json").exists()


def test_a_run_that_was_mended_by_hand_has_no_failure(tmp_path: Path, ways: Ways) -> None:
    runs = planned(tmp_path, evaluations=[EVALUATION])
    leave(runs[0])
    ways.fails(runs[0], verb="evaluate")
    dispatch(runs, CPU, quiet=True)
    evaluated(runs[0], runs[0].evaluations[0])
    assert names(dispatch(runs, CPU, quiet=True).done) == ["none-r"]
    assert not (runs[0].folder / "failure.json").exists()


def test_a_damaged_state_is_a_failure_of_its_run(tmp_path: Path, ways: Ways) -> None:
    runs = bad, good = planned(tmp_path, TWO)
    ways.ends(*runs)
    leave(bad, step=1)
    (bad.folder / "state.safetensors").write_bytes(b"no state")
    board = dispatch(runs, CPU, quiet=True)
    assert names(board.done) == [good.name]
    assert "state.safetensors cannot be resumed from" in failures(board)[bad.name]
    assert "state.safetensors cannot be resumed from" in failure(bad)["message"]
    (bad.folder / "state.safetensors").unlink()
    assert names(dispatch(runs, CPU, quiet=True).done) == names(runs)
    assert not (bad.folder / "failure.json").exists()


def test_a_damaged_log_is_a_failure_of_its_run(tmp_path: Path, ways: Ways) -> None:
    runs = bad, good = planned(tmp_path, TWO, evaluations=[EVALUATION])
    for run in runs:
        leave(run)
        evaluated(run, run.evaluations[0])
    bad.run.steps_file.write_text("no line\n")
    board = dispatch(runs, CPU, quiet=True)
    assert names(board.done) == [good.name]
    assert "steps.jsonl is damaged; move it away" in failures(board)[bad.name]


def test_what_holdfast_said_is_the_reason_whatever_came_after_it(tmp_path: Path) -> None:
    (run,) = planned(tmp_path)
    board = Board([run])
    run.folder.mkdir(parents=True)
    module._Job(run, Slot(), board).fail(TRAIN, "step 1\nholdfast: the loss is nan\nChildFailedError\n======\n", 1)
    assert failures(board) == {"none-r": "train: the loss is nan"}


def test_a_folder_that_cannot_be_made_stops_no_other_run(tmp_path: Path, ways: Ways) -> None:
    runs = bad, good = planned(tmp_path, TWO)
    ways.ends(*runs)
    bad.folder.parent.mkdir(parents=True)
    bad.folder.write_text("a file in its place")
    board = dispatch(runs, CPU, quiet=True)
    assert names(board.done) == [good.name]
    assert list(failures(board)) == [bad.name]


def test_what_needs_a_failed_start_is_not_trained(tmp_path: Path, ways: Ways) -> None:
    runs = start, *others = planned(tmp_path, TWO, start={"recipe": "none-s"})
    ways.ends(*runs)
    ways.fails(start)
    board = dispatch(runs, CPU, quiet=True)
    assert ways.calls() == ["train start"]
    assert failures(board) == {
        "start": "train: no luck",
        **{run.name: f"start: the run it starts from failed: {start.folder}" for run in others},
    }
    assert {failure(run)["what"] for run in others} == {"start"}
    ways.mended(start)
    assert names(dispatch(runs, CPU, quiet=True).done) == names(runs)
    assert ways.calls()[1:] == [f"train {run.name}" for run in runs]
    assert not list(tmp_path.rglob("failure.json"))


def test_the_start_comes_before_all_others_wherever_there_is_room(tmp_path: Path, ways: Ways) -> None:
    runs = start, other = planned(tmp_path, start={"recipe": "none-s"})
    ways.ends(*runs)
    assert names(dispatch(runs, slots_of(["cpu", "cpu"]), quiet=True).done) == names(runs)
    assert ways.calls() == ["train start", "train none-r"]
    assert other.start == start.folder


@pytest.mark.parametrize("step", [None, 1], ids=["nothing saved", "half trained"])
def test_a_start_in_the_hands_of_another_process_is_waited_for(step: int | None, tmp_path: Path, ways: Ways) -> None:
    runs = start, _ = planned(tmp_path, start={"recipe": "none-s"})
    ways.ends(*runs)
    if step:
        leave(start, step=step)
    with taken(start.folder):
        board = dispatch(runs, CPU, quiet=True)
    assert names(board.left) == names(runs)
    assert not board.done
    assert not board.failed
    assert not ways.calls()


def test_a_run_in_the_hands_of_another_process_is_left(tmp_path: Path, ways: Ways) -> None:
    runs = first, second = planned(tmp_path, TWO)
    ways.ends(*runs)
    with taken(first.folder):
        board = dispatch(runs, CPU, quiet=True)
    assert (names(board.done), names(board.left)) == ([second.name], [first.name])
    assert ways.calls() == [f"train {second.name}"]
    assert names(dispatch(runs, CPU, quiet=True).done) == names(runs)


def test_runs_share_the_slots(tmp_path: Path, ways: Ways, gate: Gate) -> None:
    runs = planned(tmp_path, TWO)
    ways.ends(*runs)
    for run in runs:
        ways.stops(run, gate)

    def look() -> None:
        gate.arrived()
        gate.arrived()
        assert not any(is_free(run.folder) for run in runs)
        gate.open()

    with meanwhile(look, gate):
        board = dispatch(runs, slots_of(["cpu", "cpu"]), quiet=True)
    assert sorted(names(board.done)) == names(runs)
    assert all(is_free(run.folder) for run in runs)


def test_a_run_goes_on_when_its_sweep_is_killed_and_is_taken_up_when_it_is_killed_too(
    tmp_path: Path, ways: Ways, gate: Gate
) -> None:
    (run,) = runs = planned(tmp_path)
    ways.ends(run)
    ways.stops(run, gate)
    process = forked(lambda: dispatch(runs, CPU, quiet=True))
    gate.arrived()
    process.kill()
    process.join()
    assert not is_free(run.folder)
    assert dispatch(runs, CPU, quiet=True).left == runs
    os.killpg(process.pid or 0, signal.SIGKILL)
    until(lambda: is_free(run.folder))
    gate.open()
    assert dispatch(runs, CPU, quiet=True).done == runs
    assert ways.calls() == [f"train {run.name}"] * 2
    assert not (run.folder / "failure.json").exists()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT is an interrupt, also where the tests are run in the background; SIGTERM must not come through."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    other = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the signal was not taken"))
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, other)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_the_processes_and_is_no_failure(
    stop: signal.Signals, tmp_path: Path, ways: Ways, gate: Gate
) -> None:
    runs = first, second = planned(tmp_path, TWO)
    ways.ends(*runs)
    ways.stops(first, gate)

    def end() -> None:
        gate.arrived()
        os.kill(os.getpid(), stop)

    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt), meanwhile(end, gate):
        dispatch(runs, CPU, quiet=True)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert ways.calls() == [f"train {first.name}"]
    assert is_free(first.folder)
    assert not list(tmp_path.rglob("failure.json"))
    assert not second.folder.exists()


# ---- progress -------------------------------------------------------------------------------------------------------


def log_steps(run: Planned, count: int) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    run.run.steps_file.write_text("{}\n" * count)


def test_the_state_of_the_whole_is_one_line(tmp_path: Path) -> None:
    runs = a, b, c, d = planned(tmp_path, {**PLAIN, "seed": [0, 1, 2, 3]}, settings={**SMALL, "steps": 50})
    board = Board(runs, {run.folder: run.steps() for run in runs})
    assert board.line() == "0 of 4 runs done"
    board.done.append(a)
    board.failed[b.folder] = "train: no luck"
    board.doing |= {d.folder: "evaluate strict", c.folder: TRAIN}
    log_steps(c, 7)
    assert board.total() == 7
    assert board.line() == "1 of 4 runs done, 1 failed; none-r,seed=2: train 7/50; none-r,seed=3: evaluate strict"


def test_steps_made_are_those_of_the_logs(tmp_path: Path) -> None:
    runs = a, b = planned(tmp_path, TWO, settings={**SMALL, "steps": 50})
    board = Board(runs, {run.folder: run.steps() for run in runs})
    assert board.total() == 0
    log_steps(a, 20)
    assert board.total() == 0, "only logs of runs in training grow"
    board.doing[a.folder] = TRAIN
    assert board.total() == 20
    a.run.steps_file.write_text("{}\n" * 10 + '{"cut')
    assert board.total() == 10, "a resumed run begins behind its log, and a line is written when it ends"
    log_steps(a, 60)
    board.doing[b.folder] = TRAIN
    log_steps(b, 1)
    assert board.total() == 51


def test_lines_now_and_then_also_while_the_last_run_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where all steps are made, not every look is worth one."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("holdfast.util.progress.time", clock)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0)
    (run,) = runs = planned(tmp_path)
    board, future = Board(runs, {run.folder: 2}, {run.folder: 2}, {run.folder: "evaluate strict"}), Future[None]()
    line = Board.line

    def later(self: Board) -> str:
        clock.now += 10
        if clock.now == 100:
            future.set_result(None)
        return line(self)

    monkeypatch.setattr(Board, "line", later)
    with Progress("sweep", 2, 2) as progress:
        module._watch([future], board, progress)
    said = "sweep: 2/2. 0 of 1 runs done; none-r: evaluate strict"
    assert capsys.readouterr().out.splitlines() == [said] * 3


def test_at_the_end_the_whole_is_said_and_nothing_where_it_is_quiet(
    tmp_path: Path, ways: Ways, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = planned(tmp_path, TWO)
    ways.ends(*runs)
    dispatch(runs[:1], CPU, quiet=True)
    assert capfd.readouterr() == ("", "")
    dispatch(runs, CPU)
    assert capfd.readouterr().out.splitlines()[-1] == "sweep: 2 of 2 runs done"


# ---- with holdfast itself -------------------------------------------------------------------------------------------


def test_a_run_on_two_devices_is_one_run_of_two_processes(tmp_path: Path) -> None:
    runs = planned(tmp_path)
    (slot,) = slots_of(["cpu+cpu"])
    board = dispatch(runs, [slot], quiet=True)
    assert names(board.done) == ["none-r"], failures(board)
    assert json.loads((runs[0].folder / "environment.json").read_text())["processes"] == 2
    assert [line["step"] for line in runs[0].run.steps()] == [1, 2]
    assert runs[0].run.cost()["passes"] == 2 * 16, "those of both, 16 images a step"


STOPPING = """
import sys
if "train" in sys.orig_argv:
    from holdfast.runs.folder import Run
    whole = Run.log_step

    def log_step(self, values):
        whole(self, values)
        if values["step"] == 5:
            {stop}

    Run.log_step = log_step
"""


@pytest.mark.usefixtures("interruptible")
def test_a_training_that_was_ended_goes_on_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    """Ended at its fifth step, in the second epoch, of which only four are saved."""
    (tmp_path / "sitecustomize.py").write_text(STOPPING.format(stop=gate.stop()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = {**SMALL, "batch.pairs": 250, "steps": 8, "optim.epochs": 2, "save_minutes": 0, "optim.ema": 0.9}
    evaluations = [{"protocol": "benign"}]
    runs = planned(tmp_path, {"recipe": "hm-s-lga-ics"}, settings=settings, evaluations=evaluations)
    run = runs[0].run

    def terminate() -> None:
        gate.arrived()
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), meanwhile(terminate, gate):
        dispatch(runs, CPU, quiet=True)
    assert is_free(run.folder)
    assert [line["step"] for line in run.steps()] == [1, 2, 3, 4, 5]
    assert run.place().step == 4
    assert not runs[0].trained()
    assert not (run.folder / "failure.json").exists()
    assert shlex.join(["holdfast", *runs[0].words()]) in (run.folder / "log.txt").read_text()

    with inside():
        assert names(dispatch(runs, CPU, quiet=True).done) == ["hm-s-lga-ics"]
    assert [line["step"] for line in run.steps()] == list(range(1, 9))
    assert [result.protocol for result in find([run.folder])] == ["benign"]
    train(resolve_config(settings, {"recipe": "hm-s-lga-ics"}), tmp_path / "whole", quiet=True)
    whole, cut = Run(tmp_path / "whole").load_state(), run.load_state()
    assert cut.tensors.keys() == whole.tensors.keys()
    assert not [name for name, tensor in whole.tensors.items() if not torch.equal(tensor, cut.tensors[name])]
