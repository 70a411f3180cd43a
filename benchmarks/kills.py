"""Kills commands at random, in a third of the cases two at work on one folder, and compares what is left in the end.

    python -m benchmarks.kills 200 --seed 1 --only train,evaluate

Half of the kills come after a random time, half before a random call that opens, moves or removes something in the
folder. Then the command is called once more, alone. It has to leave what an undisturbed one leaves, and nothing else;
a command that was not killed ends with 0, or says that another process is at work: with 2 and one line, ``sweep`` with
1 and its table. Commands are forked from one process that has imported everything; the processes of a sweep are not.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from holdfast.cli import main as holdfast
from holdfast.data import load_dataset

NEEDED = (
    *("holdfast.cli.display", "holdfast.cli.options", "holdfast.training.loop", "holdfast.evaluation.evaluate"),
    *("holdfast.search.lookup", "holdfast.export", "holdfast.report", "torch._dynamo", "sklearn.cluster"),
)
"""Imported before the first fork; torch imports the last but one for an optimiser."""
SMALL = ["--max-queries", "48", "--batch-size", "8", "--steps", "1", "--device", "cpu"]
TINY = {"recipe": "hm-s-lga-ics", "model.dim": 8, "batch.pairs": 250, "pgd.steps": 1, "validation.attacked": 8}
PICTURES = 600
TIMES = {"seconds", "waited", "cost", "environment"}
"""Keys that differ from run to run."""
FORBIDDEN = ("Traceback", "Error")
AT_WORK = "is at work"
REFUSED = {"sweep": 1}
"""The exit status where another process is at work; of the other commands 2."""

Words = Callable[[Path, Path], list[str]]
"""From the folder with what all need and that of one case to the arguments of ``holdfast``."""


def _training(epochs: int) -> list[str]:
    settings = TINY | {"optim.epochs": epochs, "save_minutes": 0}
    return ["train", *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")), "--resume"]


JOBS: dict[str, Words] = {
    "train": lambda _, out: [*_training(2), "--device", "cpu", "--out", str(out / "run")],
    "evaluate": lambda all_, out: [
        *("evaluate", str(all_ / "run"), "--attack", "es", "--attack", "ca+:1", "--no-checks", *SMALL),
        *("--out", str(out / "results")),
    ],
    "attack": lambda all_, out: ["attack", str(all_ / "run"), *SMALL, "--out", str(out / "adversarial")],
    "embed": lambda all_, out: [
        *("embed", str(all_ / "pictures"), "--model", str(all_ / "run"), "--out", str(out / "index.npz")),
        *("--device", "cpu"),
    ],
    "export": lambda all_, out: ["export", str(all_ / "run"), "--format", "hub", "--out", str(out / "hub")],
    "sweep": lambda all_, out: ["sweep", str(all_ / "sweep.yaml"), "--out", str(out), "--device", "cpu"],
}


def start(words: list[str], log: Path, folder: Path, die_at: int | None = None, count: Path | None = None) -> int:
    """The id of a process at work on ``words``; it kills itself at its call number ``die_at`` in the folder."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    calls = 0

    def watch(_: str, arguments: tuple[Any, ...]) -> None:
        nonlocal calls
        if arguments and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(str(folder)):
            calls += 1
            if calls == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.addaudithook(watch)
        sys.argv = ["holdfast", *words]
        holdfast(words)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    if count is not None:
        count.write_text(str(calls))
    sys.stdout.flush()
    os._exit(status)


def ended(child: int) -> int:
    """The exit status of a process, negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(folder: Path) -> dict[str, Any]:
    """What lies in a folder, without what differs from run to run."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _content(path: Path) -> Any:
    if path.name in {"environment.json", "log.txt"}:
        return None
    if path.suffix in {".json", ".jsonl"}:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return [_timeless(json.loads(line)) for line in lines]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(one) for one in value]
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in TIMES}
    return value


@dataclass
class Job:
    """A command: what it leaves undisturbed, the seconds and the calls in its folder that it takes, and its cases."""

    name: str
    home: Path
    rng: random.Random
    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        folder, count = self.home / f"{self.name}-undisturbed", self.home / "count"
        folder.mkdir()
        began = time.monotonic()
        if status := ended(start(self.words(folder), self.log, folder, count=count)):
            raise SystemExit(f"{self.name} fails undisturbed ({status}): {self.log.read_text()}")
        self.seconds, self.calls = time.monotonic() - began, int(count.read_text())
        self.wanted = contents(folder)

    @property
    def log(self) -> Path:
        return self.home / f"{self.name}.log"

    def words(self, folder: Path) -> list[str]:
        return JOBS[self.name](self.home, folder)

    def case(self, rivals: int) -> None:
        """Kill one process or several at work on a new folder, go on with it, and compare."""
        self.seen["cases"] += 1
        folder = self.home / f"{self.name}-{self.seen['cases']}"
        folder.mkdir()
        for _ in range(self.rng.randint(1, 4)):
            self._disturb(folder, rivals)
        self._end(ended(start(self.words(folder), self.log, folder)), self.log, folder, alone=True)
        found = contents(folder)
        for name in sorted(found.keys() | self.wanted.keys()):
            if name not in self.wanted:
                self._fault(folder, f"left {name}")
            elif found.get(name, "nothing") != self.wanted[name]:
                self._fault(folder, f"{name} is not as undisturbed")

    def _disturb(self, folder: Path, rivals: int) -> None:
        logs = [self.log.with_suffix(f".{i}.log") for i in range(rivals)]
        alive: dict[int, Path] = {}
        kills: list[tuple[float, int]] = []
        for log in logs:
            by_call = self.rng.random() < 0.5
            child = start(self.words(folder), log, folder, die_at=self.rng.randint(1, self.calls) if by_call else None)
            alive[child] = log
            if not by_call:
                kills.append((time.monotonic() + self.rng.uniform(0, 1.1 * self.seconds), child))
            if rivals > 1:
                time.sleep(self.rng.uniform(0, 0.3 * self.seconds))
        for when, child in sorted(kills):
            time.sleep(max(0.0, when - time.monotonic()))
            os.kill(child, signal.SIGKILL)  # of a process that has ended already, nothing: it is waited for below
        for child, log in alive.items():
            self._end(ended(child), log, folder, alone=rivals == 1)

    def _end(self, status: int, log: Path, folder: Path, alone: bool) -> None:
        told = log.read_text() if log.exists() else ""
        if status == -signal.SIGKILL:
            self.seen["kills"] += 1
        elif status == REFUSED.get(self.name, 2) and not alone and AT_WORK in told and told.count("holdfast: ") < 2:
            self.seen["refused"] += 1
        elif status or any(word in told for word in FORBIDDEN):
            self._fault(folder, f"exit status {status}: {told[-2000:]}")

    def _fault(self, folder: Path, what: str) -> None:
        self.faults.append(f"{self.name}, {folder.name}: {what}")
        print(self.faults[-1], flush=True)


def prepare(home: Path) -> None:
    """A run, pictures and a sweep file that all cases read."""
    run = [*_training(1), "--out", str(home / "run")]
    if ended(start(run, home / "run.log", home)):
        raise SystemExit(f"the run that all cases read fails: {(home / 'run.log').read_text()}")
    (home / "pictures").mkdir()
    images = load_dataset("digits").images
    assert isinstance(images, np.ndarray)
    for i in range(PICTURES):
        Image.fromarray(images[i]).save(home / "pictures" / f"{i:04}.png")
    settings = TINY | {"optim.epochs": 1}
    runs = "runs: [{seed: [0, 1]}]\nevaluations: [{protocol: benign}]\n"
    (home / "sweep.yaml").write_text(f"settings: {json.dumps(settings)}\n{runs}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(JOBS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in NEEDED:
        importlib.import_module(name)
    rng = random.Random(arguments.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home)
        jobs = [Job(name, home, rng) for name in arguments.only]
        cases = 0
        with suppress(KeyboardInterrupt):
            while sum(job.seen["kills"] for job in jobs) < arguments.kills:
                jobs[cases % len(jobs)].case(rivals=2 if rng.random() < 1 / 3 else 1)
                cases += 1
    for job in jobs:
        counts = ", ".join(f"{count} {what}" for what, count in job.seen.items())
        print(f"{job.name}: {counts}, {len(job.faults)} faults ({job.seconds:.1f} s, {job.calls} calls undisturbed)")
    print(f"{sum(job.seen['kills'] for job in jobs)} kills in {time.monotonic() - began:.0f} s")
    return 1 if any(job.faults for job in jobs) else 0


if __name__ == "__main__":
    sys.exit(main())
