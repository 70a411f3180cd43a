"""Sweep files on digits, and what runs of theirs leave behind, for the tests that need some."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from holdfast.evaluation.protocols import PROTOCOLS
from holdfast.evaluation.settings import resolve_budget
from holdfast.runs.data import family_of
from holdfast.runs.folder import State
from holdfast.sweep.plan import Evaluation, Planned, plan
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
    progress = {"epoch": epochs, "step": run.steps()} if step is None else {"epoch": 0, "step": step}
    for i in range(progress["step"]):
        files.log_step({"step": i + 1, "epoch": 1})
    (files.folder / "model.safetensors").write_bytes(b"weights")
    files.save_state(State({"model/w": torch.ones(1)}, {**progress, "collapsed": collapsed}))


def evaluated(run: Planned, evaluation: Evaluation, **changes: Any) -> Path:
    """The result of an evaluation in the folder of a run."""
    rules = PROTOCOLS[evaluation.protocol]
    budget = asdict(resolve_budget(family_of(run.config), evaluation.protocol, **evaluation.settings))
    given: dict[str, Any] = {"settings": {**budget, "attacks": list(budget["attacks"])}, "checks": []}
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
