"""Sweeps carried out: skipped when done, resumed after a kill, a failure recorded, every device with its run."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
import torch

from holdfast.cli import app, main
from holdfast.report import find
from holdfast.runs.config import resolve
from holdfast.runs.folder import Run
from holdfast.sweep import dispatch as module
from holdfast.sweep.dispatch import TRAIN, Board, Slot, dispatch, slots_of
from holdfast.sweep.plan import Planned, plan
from holdfast.training.loop import train
from holdfast.util.errors import HoldfastError
from tests.conftest import Call
from tests.helpers.sweep_files import PLAIN, SMALL, evaluated, leave, planned, write

CPU = slots_of(["cpu"])
PATIENCE = 100.0
"""Seconds until a test gives a process up."""


def until(true: Callable[[], Any], process: "subprocess.Popen[Any] | None" = None) -> None:
    """Wait for something that a process does."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert process is None or process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


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


# ---- a whole sweep, its commands carried out in this process --------------------------------------------------------


class Inside:
    """In place of a process: ``holdfast`` called here, where torch is imported already."""

    def __init__(self, words: list[str], *, stdout: BinaryIO, **_: Any) -> None:
        assert words[:3] == [sys.executable, "-m", "holdfast"]
        try:
            app(args=words[3:])
        except SystemExit as stop:
            self.code = int(stop.code or 0)
        except HoldfastError as error:
            stdout.write(f"holdfast: {error}\n".encode())
            self.code = 2

    def wait(self) -> int:
        return self.code


@contextmanager
def inside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "subprocess", SimpleNamespace(Popen=Inside, DEVNULL=subprocess.DEVNULL))
        yield


EVALUATIONS: list[dict[str, Any]] = [
    {"protocol": "cvpr22", "attacks": ["es", "ltm"], "steps": 1, "max_queries": 4, "checks": False},
    {"protocol": "strict", "attacks": "es", "eps": "8/255", "steps": 1, "max_queries": 4, "checks": False},
]
GOOD: dict[str, Any] = {"recipe": ["none-r", "act-r"]}
BAD: dict[str, Any] = {"recipe": "none-r", "optim.lr": 1e30}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """The exit status and the folder of a sweep: two runs that work, between them one whose loss is not finite."""
    folder = tmp_path_factory.mktemp("swept")
    file = write(folder, {"recipe": "none-r"}, BAD, {"recipe": "act-r"}, evaluations=EVALUATIONS)
    with inside(), pytest.raises(SystemExit) as stop:
        main(["sweep", str(file), "--out", str(folder / "out"), "--device", "cpu"])
    return int(stop.value.code or 0), folder


def test_every_run_is_trained_and_evaluated_in_every_way(swept: tuple[int, Path]) -> None:
    _, folder = swept
    for name in GOOD["recipe"]:
        run = folder / "out" / "tiny" / name
        assert len(Run(run).steps()) == 2
        results = {result.protocol: result.content for result in find([run])}
        assert results.keys() == {"cvpr22", "strict"}
        assert {content["model"]["recipe"] for content in results.values()} == {name}
        assert [results[key]["settings"]["attacks"] for key in ("cvpr22", "strict")] == [["es", "ltm"], ["es"]]
        assert results["strict"]["settings"]["eps"] == 8 / 255
        assert {content["data"]["attacked"] for content in results.values()} == {4}
        assert not (run / "failure.json").exists()
        log = (run / "log.txt").read_text().splitlines()
        assert [line.split()[:5] for line in log if line.startswith("$")] == [
            ["$", "python", "-m", "holdfast", verb] for verb in ("train", "evaluate", "evaluate")
        ]


def test_one_that_fails_is_recorded_and_the_others_are_done(swept: tuple[int, Path]) -> None:
    status, folder = swept
    assert status == 1
    run = folder / "out" / "tiny" / "none-r,optim.lr=1e+30"
    recorded = json.loads((run / "failure.json").read_text())
    assert (recorded["what"], recorded["status"]) == (TRAIN, 2)
    assert "step 2: the loss is nan" in recorded["message"]
    assert not find([folder / "out" / "tiny" / "act-r"])[0].content["collapsed"]
    assert not (run / "evaluations").exists()


def test_called_again_it_does_nothing(
    swept: tuple[int, Path], call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "subprocess", None)
    file = write(tmp_path, GOOD, evaluations=EVALUATIONS)
    out = swept[1] / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    status, shown, _ = call("sweep", file, "--out", out, "--device", "cpu")
    assert status == 0
    assert [line.split() for line in shown.splitlines() if "tiny" in line] == [
        ["done", "tiny", name] for name in GOOD["recipe"]
    ]
    assert f"now: holdfast report {out} --compare published" in shown
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_evaluation_of_other_settings_is_still_to_be_made(swept: tuple[int, Path], tmp_path: Path) -> None:
    other = {**EVALUATIONS[1], "max_queries": 5}
    (run,) = plan([write(tmp_path, PLAIN, evaluations=[EVALUATIONS[0], other])], swept[1] / "out")
    assert [one.settings["max_queries"] for one in run.missing()] == [5]


def test_the_plan_says_what_is_left(swept: tuple[int, Path], call: Call, tmp_path: Path) -> None:
    other = {**EVALUATIONS[1], "max_queries": 5}
    file = write(tmp_path, {"recipe": ["none-r", "act-r", "est-r"]}, evaluations=[EVALUATIONS[0], other])
    out = swept[1] / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    status, shown, _ = call("sweep", file, "--out", out, "--dry-run", "--device", "cpu", "--device", "cpu")
    assert status == 0
    rows = [line.split() for line in shown.splitlines() if line.strip().startswith("tiny")]
    assert [row[1:-2] for row in rows] == [
        ["none-r", "trained", "strict"],
        ["act-r", "trained", "strict"],
        ["est-r", "2", "steps", "cvpr22,", "strict"],
    ]
    assert "runs: 3; about" in shown
    assert "2 at a time" not in shown, "they share the cores that were timed"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


# ---- what a run does, by a script in its place ----------------------------------------------------------------------

SCRIPT = """
import shutil, sys, time
from pathlib import Path

ways, verb, words = Path(sys.argv[1]), sys.argv[3], sys.argv[4:]
folder = Path(words[words.index("--out") + 1] if verb == "train" else words[0])
way = ways / f"{verb} {folder.name}"
with (ways / "calls").open("a") as file:
    file.write(f"{verb} {folder.name}\\n")
if (way / "message").exists():
    sys.exit((way / "message").read_text())
if (way / "waits").exists():
    (folder / "steps.jsonl").write_text("{}\\n")
    time.sleep(float((way / "waits").read_text()))
if way.exists():
    shutil.copytree(way, folder, dirs_exist_ok=True)
"""


class Ways:
    """What the script does with each run: come to its end, wait, or fail with a message."""

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

    def waits(self, run: Planned, seconds: float, verb: str = TRAIN) -> None:
        (self.way(verb, run) / "waits").write_text(str(seconds))

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
    runs = planned(tmp_path, evaluations=EVALUATIONS)
    leave(runs[0])
    ways.fails(runs[0], "no attack", verb="evaluate")
    assert failures(dispatch(runs, CPU, quiet=True)) == {"none-r": "evaluate cvpr22: no attack"}
    assert failure(runs[0])["what"] == "evaluate cvpr22"
    ways.mended(runs[0], verb="evaluate")
    assert names(dispatch(runs, CPU, quiet=True).done) == ["none-r"]
    assert ways.calls() == ["evaluate none-r"] * 3
    assert not (runs[0].folder / "failure.json").exists()


def test_a_run_that_was_mended_by_hand_has_no_failure(tmp_path: Path, ways: Ways) -> None:
    runs = planned(tmp_path, evaluations=EVALUATIONS[:1])
    leave(runs[0])
    ways.fails(runs[0], verb="evaluate")
    dispatch(runs, CPU, quiet=True)
    evaluated(runs[0], runs[0].evaluations[0])
    assert names(dispatch(runs, CPU, quiet=True).done) == ["none-r"]
    assert not (runs[0].folder / "failure.json").exists()


def test_a_damaged_state_is_a_failure_of_its_run(tmp_path: Path, ways: Ways) -> None:
    runs = bad, good = planned(tmp_path, {**PLAIN, "seed": [0, 1]})
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
    runs = bad, good = planned(tmp_path, {**PLAIN, "seed": [0, 1]}, evaluations=EVALUATIONS[:1])
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
    runs = bad, good = planned(tmp_path, {**PLAIN, "seed": [0, 1]})
    ways.ends(*runs)
    bad.folder.parent.mkdir(parents=True)
    bad.folder.write_text("a file in its place")
    board = dispatch(runs, CPU, quiet=True)
    assert names(board.done) == [good.name]
    assert list(failures(board)) == [bad.name]


def test_what_needs_a_failed_start_is_not_trained(tmp_path: Path, ways: Ways) -> None:
    runs = start, *others = planned(tmp_path, {**PLAIN, "seed": [0, 1]}, start={"recipe": "none-s"})
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
    ways.waits(start, 0.3)
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


def test_a_run_in_the_hands_of_another_process_is_left(tmp_path: Path, ways: Ways, call: Call) -> None:
    file = write(tmp_path, {**PLAIN, "seed": [0, 1]})
    runs = first, second = plan([file], tmp_path / "out")
    ways.ends(*runs)
    with taken(first.folder):
        status, shown, _ = call("sweep", file, "--out", tmp_path / "out", "--device", "cpu")
    assert status == 0
    found = [line.split(maxsplit=3) for line in shown.splitlines() if " tiny " in line]
    assert [row[:3] for row in found] == [["done", "tiny", second.name], ["left", "tiny", first.name]]
    assert found[1][3].startswith("another process is at work on it")
    assert ways.calls() == [f"train {second.name}"]
    assert names(dispatch(runs, CPU, quiet=True).done) == names(runs)


def test_runs_share_the_slots(tmp_path: Path, ways: Ways) -> None:
    runs = planned(tmp_path, {**PLAIN, "seed": [0, 1]})
    held: list[bool] = []
    for run in runs:
        ways.waits(run, 20)

    def look() -> None:
        until(lambda: len(ways.calls()) == 2)
        held.extend(not is_free(run.folder) for run in runs)
        os.kill(os.getpid(), signal.SIGINT)

    stopper = threading.Thread(target=look, daemon=True)
    stopper.start()
    with pytest.raises(KeyboardInterrupt):
        dispatch(runs, slots_of(["cpu", "cpu"]), quiet=True)
    assert held == [True, True]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_processes_and_is_no_failure(stop: signal.Signals, tmp_path: Path, ways: Ways) -> None:
    runs = first, second = planned(tmp_path, {**PLAIN, "seed": [0, 1]})
    ways.ends(*runs)
    ways.waits(first, 60)

    def end() -> None:
        until(ways.calls)
        os.kill(os.getpid(), stop)

    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("the signal was not taken"))
    try:
        threading.Thread(target=end, daemon=True).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            dispatch(runs, CPU, quiet=True)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert time.monotonic() - began < 50, "it did not wait for the run to end by itself"
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
    runs = a, b = planned(tmp_path, {**PLAIN, "seed": [0, 1]}, settings={**SMALL, "steps": 50})
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


def test_plain_lines_now_and_then_where_there_is_no_terminal(
    tmp_path: Path, ways: Ways, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also while the last run is evaluated, when all steps are made."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LOOKS", 0.02)
    runs = planned(tmp_path, {**PLAIN, "seed": [0, 1]}, evaluations=EVALUATIONS[:1])
    ways.ends(*runs)
    for run in runs:
        ways.waits(run, 0.5, verb="evaluate")
    dispatch(runs, CPU)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "sweep: 2 of 2 runs done"
    assert all(line.startswith("sweep: ") for line in lines)
    assert len(lines) < 6


def test_quiet_says_nothing(tmp_path: Path, ways: Ways, capfd: pytest.CaptureFixture[str]) -> None:
    runs = planned(tmp_path)
    ways.ends(*runs)
    dispatch(runs, CPU, quiet=True)
    assert capfd.readouterr() == ("", "")


# ---- devices --------------------------------------------------------------------------------------------------------

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


def test_a_run_on_two_devices_is_one_run_of_two_processes(tmp_path: Path) -> None:
    runs = planned(tmp_path)
    (slot,) = slots_of(["cpu+cpu"])
    board = dispatch(runs, [slot], quiet=True)
    assert names(board.done) == ["none-r"], failures(board)
    assert json.loads((runs[0].folder / "environment.json").read_text())["processes"] == 2
    assert [line["step"] for line in runs[0].run.steps()] == [1, 2]
    assert runs[0].run.cost()["passes"] == 2 * 16, "those of both, 16 images a step"


# ---- a kill in the middle -------------------------------------------------------------------------------------------


def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep alone is killed, so that its run goes on; then that too; the next is told to end; the last ends."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = {**SMALL, "batch.pairs": 32, "steps": 60, "optim.epochs": 2, "save_minutes": 0, "optim.ema": 0.9}
    file = write(tmp_path, {"recipe": "hm-s-lga-ics"}, settings=settings, evaluations=[{"protocol": "benign"}])
    runs = plan([file], tmp_path / "out")
    run, board = runs[0].run, Board(runs)

    def steps() -> int:
        return len(run.steps())

    command = [*HOLDFAST, "sweep", str(file), "--out", str(tmp_path / "out"), "--device", "cpu"]
    with (tmp_path / "shown").open("wb") as shown:
        process = subprocess.Popen(command, stdout=shown, stderr=shown, start_new_session=True)
        try:
            until(lambda: steps() >= 3, process)
            os.killpg(process.pid, signal.SIGSTOP)
            process.kill()
            process.wait()
            assert steps() < 60
            assert not is_free(run.folder)
            board = dispatch(runs, CPU, quiet=True)
            assert names(board.left) == ["hm-s-lga-ics"]
            assert not board.done
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    until(lambda: is_free(run.folder))
    begun = steps()
    assert begun >= 3
    assert not (run.folder / "failure.json").exists()

    def terminate() -> None:
        until(lambda: begun + 3 < steps() < 60)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        dispatch(runs, CPU, quiet=True)
    assert is_free(run.folder)
    assert begun < int(run.progress()["step"]) < 60
    assert not runs[0].trained()
    assert not (run.folder / "failure.json").exists()

    with inside():
        assert names(dispatch(runs, CPU, quiet=True).done) == ["hm-s-lga-ics"]
    assert [line["step"] for line in run.steps()] == list(range(1, 61))
    assert [result.protocol for result in find([run.folder])] == ["benign"]
    train(resolve(settings, {"recipe": "hm-s-lga-ics"}), tmp_path / "whole", quiet=True)
    whole, cut = Run(tmp_path / "whole").load_state(), run.load_state()
    assert cut.tensors.keys() == whole.tensors.keys()
    assert not [name for name, tensor in whole.tensors.items() if not torch.equal(tensor, cut.tensors[name])]
    assert "resumed at step" in (run.folder / "log.txt").read_text()
    assert shlex.join(["holdfast", *runs[0].words()]) in (run.folder / "log.txt").read_text()
