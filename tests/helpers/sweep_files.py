"""Sweep files on digits, and what runs of theirs leave behind, for the tests that need some."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest
import torch
import yaml

from holdfast.cli import app
from holdfast.evaluation.protocols import PROTOCOLS
from holdfast.evaluation.settings import resolve_settings
from holdfast.runs.data import family_of
from holdfast.runs.folder import Place, State
from holdfast.sweep import dispatch
from holdfast.sweep.plan import Evaluation, Planned, plan
from holdfast.util.errors import HoldfastError
from tests.helpers import result_files

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
    """The commands of a sweep are carried out in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "subprocess", SimpleNamespace(Popen=Inside, DEVNULL=subprocess.DEVNULL))
        yield
