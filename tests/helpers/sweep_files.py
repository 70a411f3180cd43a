"""Sweep files on digits, and what runs of theirs leave behind, for the tests that need some."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
import yaml

from holdfast.cli import app
from holdfast.evaluation.protocols import PROTOCOLS
from holdfast.evaluation.settings import resolve_settings
from holdfast.runs.data import family_of
from holdfast.runs.folder import Place, State
from holdfast.sweep.plan import Evaluation, Planned, plan
from holdfast.util.errors import HoldfastError
from tests.helpers import result_files
from tests.helpers.runs import together

SMALL: dict[str, Any] = {
    "data.name": "digits",
    "model.dim": 8,
    "batch.pairs": 8,
    "pgd.steps": 1,
    "steps": 2,
    "optim.epochs": 1,
    "validation.every": 0,
}
PLAIN: dict[str, Any] = {"recipe": "none-r"}


def write(folder: Path, *runs: Any, name: str = "tiny.yaml", **sections: Any) -> Path:
    """A sweep file of tiny runs; a section of None is left out."""
    tree = {"settings": SMALL, "runs": list(runs or [PLAIN]), **sections}
    path = folder / name
    path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}, sort_keys=False))
    return path


def planned(folder: Path, *runs: Any, **sections: Any) -> list[Planned]:
    """The runs of such a file, into ``folder/out``."""
    return plan([write(folder, *runs, **sections)], folder / "out")


def leave(run: Planned, step: int | None = None, collapsed: int = 0) -> None:
    """A run folder as training leaves it: trained to its end, or stopped after ``step`` steps."""
    files = run.run
    files.begin(run.config, resume=False)
    epochs = run.config.warmup.epochs + run.config.optim.epochs
    place = Place(epochs, step=run.steps()) if step is None else Place(step=step)
    for i in range(place.step):
        files.log_step({"step": i + 1, "epoch": 1})
    (files.folder / "model.safetensors").write_bytes(b"weights")
    files.save_state(State({"model/w": torch.ones(1)}, replace(place, collapsed=collapsed)))


def evaluated(run: Planned, evaluation: Evaluation, **changes: Any) -> Path:
    """The result of an evaluation in the folder of a run."""
    rules = PROTOCOLS[evaluation.protocol]
    resolved = resolve_settings(family_of(run.config), evaluation.protocol, **evaluation.settings).plain()
    given: dict[str, Any] = {"settings": {**resolved, "attacks": list(resolved["attacks"])}, "checks": []}
    given |= {
        "protocol": rules.name,
        "protocol_version": rules.version,
        "model": {"weights": "last", "surrogate": None},
    }
    given["model"]["training"] = run.run.cost()
    for key, value in changes.items():
        given[key] = {**given[key], **value} if isinstance(given.get(key), dict) else value
    path = result_files.write(run.folder / "evaluations" / f"{evaluation.protocol}-{'0' * 8}" / "result.json", **given)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "settings": given["settings"]}))
    return path


def inside(words: list[str], *, stdout: BinaryIO, **_: Any) -> int:
    """In place of a process, or of those of torchrun: ``holdfast`` called here, where torch is imported already."""
    *program, processes = words[: words.index("holdfast") - 1]
    words = words[words.index("holdfast") + 1 :]
    if program:
        together(lambda: app(args=words, standalone_mode=False), int(processes))
        return 0
    try:
        app(args=words)
    except SystemExit as stop:
        return int(stop.code or 0)
    except HoldfastError as error:
        stdout.write(f"holdfast: {error}\n".encode())
    return 2


class Machine:
    """In place of processes: each leaves what ``holdfast`` would, or fails with the message given for its command.

    meanwhile: called before, with the run and what its processes get as standard input.
    """

    def __init__(self, runs: Sequence[Planned]) -> None:
        self.runs = {run.folder: run for run in runs}
        self.calls: list[str] = []
        self.fails: dict[str, str] = {}
        self.meanwhile: Callable[[Planned, int], object] = lambda run, stdin: None

    def __call__(self, command: list[str], *, stdin: int, stdout: BinaryIO, **_: Any) -> int:
        verb, *words = command[command.index("holdfast") + 1 :]
        run = self.runs[Path(words[words.index("--out") + 1] if verb == "train" else words[0])]
        self.calls.append(f"{verb} {run.name}")
        self.meanwhile(run, stdin)
        if message := self.fails.get(self.calls[-1]):
            stdout.write(message.encode())
            return 1
        if verb == "train":
            leave(run)
        else:
            evaluated(run, next(one for one in run.evaluations if one.protocol == words[2]))
        return 0
