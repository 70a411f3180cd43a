"""The runs of a sweep, each in processes of its own: one per device at a time, resumed, and none stopped by another."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import torch

from holdfast.sweep.plan import START, Planned
from holdfast.util.atomic import write_json
from holdfast.util.errors import HoldfastError
from holdfast.util.progress import Progress

FAILURE = "failure.json"
LOG = "log.txt"
LOCK = "lock"
TRAIN = "train"
SECONDS_BETWEEN_LOOKS = 1.0
LINES_KEPT = 60
SAYS = "holdfast: "
"""What the command line says goes wrong begins so; torchrun adds much after it."""
DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Slot:
    """Where one run at a time goes: a device, or several, whose processes torchrun starts.

    threads: of each process on the CPU; None leaves it to torch.
    """

    devices: tuple[str, ...] = ()
    threads: int | None = None

    def program(self) -> list[str]:
        """What comes before the arguments of ``holdfast train``."""
        if len(self.devices) < 2:
            return [sys.executable, "-m", "holdfast"]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(len(self.devices))]
        return [sys.executable, *torchrun, "-m", "holdfast"]

    def device(self) -> list[str]:
        """The option that names the device; a GPU is the first that the process sees."""
        return ["--device", self.devices[0].partition(":")[0]] if self.devices else []

    def environment(self) -> dict[str, str]:
        """The variables of its processes: the GPUs that they see, and their threads."""
        changed = dict(os.environ)
        if gpus := [name.partition(":")[2] or "0" for name in self.devices if name.startswith("cuda")]:
            seen = _visible()
            changed["CUDA_VISIBLE_DEVICES"] = ",".join(gpu if seen is None else seen[int(gpu)] for gpu in gpus)
        if self.threads is not None:
            changed.setdefault("OMP_NUM_THREADS", str(self.threads))
        return changed


def _visible() -> list[str] | None:
    """The GPUs that the environment lets be seen; None where it says nothing."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return None if names is None else [name for name in names.split(",") if name]


def slots_of(devices: Sequence[str]) -> list[Slot]:
    """``cuda:0``, ``cuda:1``: a run on each; ``cuda:0+cuda:1``: a run on both; ``cpu`` twice: two share the cores."""
    named = [tuple(part.strip() for part in one.split("+")) for one in devices]
    for names in named:
        if len({name.partition(":")[0] for name in names}) > 1 or not all(DEVICE.fullmatch(name) for name in names):
            allowed = "cpu, mps, cuda, cuda:1, ..., cuda:0+cuda:1 for a run on both"
            raise HoldfastError(f"device {'+'.join(names)!r} is not understood (allowed: {allowed})")
    gpus = [name.partition(":")[2] or "0" for names in named for name in names if name.startswith("cuda")]
    if twice := {gpu for gpu in gpus if gpus.count(gpu) > 1}:
        raise HoldfastError(f"device 'cuda:{twice.pop()}' is named twice; a GPU takes one run at a time")
    for gpu in gpus:
        if int(gpu) >= torch.cuda.device_count():
            hidden = " (CUDA_VISIBLE_DEVICES is set)" if "CUDA_VISIBLE_DEVICES" in os.environ else ""
            raise HoldfastError(f"device 'cuda:{gpu}': torch finds {torch.cuda.device_count()} GPUs{hidden}")
    processes = sum(len(names) for names in named if names[0] == "cpu")
    threads = max(1, (os.cpu_count() or 1) // processes) if processes > 1 else None
    return [Slot(names, threads if names[0] == "cpu" else None) for names in named] or [Slot()]


@dataclass
class Board:
    """What is being done and what came of it; written by the workers, read by the line of progress."""

    runs: Sequence[Planned]
    steps: dict[Path, int] = field(default_factory=dict)
    made: dict[Path, int] = field(default_factory=dict)
    doing: dict[Path, str] = field(default_factory=dict)
    done: list[Planned] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    left: list[Planned] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    processes: set[subprocess.Popen[bytes]] = field(default_factory=set)

    def count(self, run: Planned) -> int:
        """Optimiser steps that a run has made so far, as its log has it."""
        with suppress(OSError):
            self.made[run.folder] = min(self.steps[run.folder], run.run.steps_file.read_bytes().count(b"\n"))
        return self.made.setdefault(run.folder, 0)

    def total(self) -> int:
        """Optimiser steps made by all runs; only the logs of runs in training are read again."""
        return sum(
            self.count(run)
            if self.doing.get(run.folder) == TRAIN or run.folder not in self.made
            else self.made[run.folder]
            for run in self.runs
        )

    def line(self) -> str:
        """The state of the whole in one line."""
        parts = [
            f"{len(self.done)} of {len(self.runs)} runs done" + (f", {len(self.failed)} failed" if self.failed else "")
        ]
        for run in self.runs:
            if what := self.doing.get(run.folder):
                step = f" {self.made.get(run.folder, 0)}/{self.steps[run.folder]}" if what == TRAIN else ""
                parts.append(f"{run.name}: {what}{step}")
        return "; ".join(parts)


def dispatch(runs: Sequence[Planned], slots: Sequence[Slot], *, quiet: bool = False) -> Board:
    """Train and evaluate every run that is not done; what went wrong with one is written into its folder.

    A run that another process is at work on is left to that. An interrupt ends the processes, and nothing that they
    saved is lost.
    """
    board = Board(runs, {run.folder: run.steps() for run in runs})
    free: Queue[Slot] = Queue()
    for slot in slots:
        free.put(slot)
    with (
        Progress("sweep", sum(board.steps.values()), board.total(), quiet=quiet) as progress,
        _on_terminate(),
        ThreadPoolExecutor(len(slots)) as pool,
    ):
        try:
            for first in (True, False):
                futures = [pool.submit(_work, run, free, board) for run in runs if (run.name == START) == first]
                _watch(futures, board, progress)
            progress.say(f"sweep: {board.line()}")
        except BaseException:
            board.stop.set()
            for process in list(board.processes):
                process.terminate()
            raise
    return board


def _watch(futures: Sequence[Future[None]], board: Board, progress: Progress) -> None:
    while True:
        done = wait(futures, SECONDS_BETWEEN_LOOKS, FIRST_EXCEPTION)
        progress(board.total(), progress.total, board.line())
        for future in done.done:
            future.result()
        if not done.not_done:
            return


def _work(run: Planned, free: "Queue[Slot]", board: Board) -> None:
    slot = free.get()
    job = _Job(run, slot, board)
    try:
        if not board.stop.is_set():
            job.work()
    except Exception as error:
        job.fail("plan", str(error) or type(error).__name__)
    finally:
        board.doing.pop(run.folder, None)
        free.put(slot)


@dataclass
class _Job:
    """One run, where it is done, and what it leaves behind."""

    run: Planned
    slot: Slot
    board: Board

    def work(self) -> None:
        run, board = self.run, self.board
        if run.start in board.failed:
            self.fail(START, f"the run it starts from failed: {run.start}")
        elif run.done():
            self.finish()
        elif not all(one.trained() for one in board.runs if one.folder == run.start):
            board.left.append(run)
        else:
            with _taken(run.folder) as lock:
                if lock is None:
                    board.left.append(run)
                elif self.through(lock):
                    self.finish()

    def finish(self) -> None:
        """Nothing is left to do."""
        (self.run.folder / FAILURE).unlink(missing_ok=True)
        self.board.done.append(self.run)

    def through(self, lock: int) -> bool:
        """Train, then evaluate; true if all of it came out."""
        run, slot = self.run, self.slot
        if not run.trained():
            code = self.call(TRAIN, [*slot.program(), *run.words(), *slot.device()], slot, lock)
            self.board.count(run)
            if not run.trained():
                self.fail(TRAIN, self.tail(), code)
                return False
        alone = Slot(slot.devices[:1], slot.threads)
        for evaluation in run.missing():
            what = f"evaluate {evaluation.protocol}"
            words = [*alone.program(), "evaluate", str(run.folder), *evaluation.options(), *alone.device()]
            if code := self.call(what, words, alone, lock):
                self.fail(what, self.tail(), code)
                return False
        return True

    def call(self, what: str, words: list[str], slot: Slot, lock: int) -> int:
        """The exit status of a process that writes into the log of the run."""
        if self.board.stop.is_set():
            return 1
        self.board.doing[self.run.folder] = what
        with (self.run.folder / LOG).open("ab") as log:
            log.write(f"$ {shlex.join(['python', *words[1:]])}\n".encode())
            log.flush()
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=slot.environment(), pass_fds=(lock,)
            )
            self.board.processes.add(process)
            if self.board.stop.is_set():
                process.terminate()
            try:
                return process.wait()
            finally:
                self.board.processes.discard(process)

    def tail(self) -> str:
        """The end of the log."""
        lines = (self.run.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-LINES_KEPT:])

    def fail(self, what: str, message: str, code: int | None = None) -> None:
        """Write down what went wrong."""
        if self.board.stop.is_set():
            return
        lines = message.strip().splitlines()
        said = [line.removeprefix(SAYS) for line in lines if line.startswith(SAYS)] or lines
        self.board.failed[self.run.folder] = f"{what}: {said[-1] if said else f'exit status {code}'}"
        with suppress(HoldfastError):
            write_json(self.run.folder / FAILURE, {"what": what, "status": code, "message": message})


@contextmanager
def _taken(folder: Path) -> Iterator[int | None]:
    """A lock on a run's folder, held until this process and those it started have ended; None: another has it."""
    import fcntl  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield None
    else:
        yield lock
    finally:
        os.close(lock)


@contextmanager
def _on_terminate() -> Iterator[None]:
    """SIGTERM as an interrupt, so that the processes of the runs end too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
