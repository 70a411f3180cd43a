"""A run folder: settings, environment, weights, the state to resume from, and logs.

Every file is replaced whole, but for steps.jsonl, whose lines are appended.

::

    config.yaml        the resolved settings           steps.jsonl   one line per optimiser step
    environment.json   versions, git state, command    epochs.csv    one row per epoch
    config.json, model.safetensors                     the embedder, last weights
    best/                                              the embedder at its best validation
    state.safetensors                                  everything a resumed run needs
"""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from math import inf
from pathlib import Path
from typing import Annotated, Any, Required

import torch
from pydantic import Field, StrictFloat, StrictStr
from safetensors import SafetensorError, safe_open
from torch import Tensor
from typing_extensions import TypedDict

from holdfast.runs.config import Config, differences, resolve_config
from holdfast.util.arrays import save_safetensors
from holdfast.util.atomic import write_json, write_text
from holdfast.util.errors import HoldfastError, within
from holdfast.util.text import to_csv
from holdfast.util.validate import Whole, check, fit, parse_json, read_csv, read_json, read_lines, read_yaml

BEFORE = {"validation.share": 0, "validation.on_test": True}
"""What runs did that do not say it."""
QUERY = re.compile(r"(https?://[^?#\s]*)[?#]\S*")
"""An address, and what stands behind its path: it may be a key."""
LIBRARIES = ("torch", "numpy", "scikit-learn", "pillow", "safetensors")


class _Step(TypedDict, total=False):
    step: Required[Whole]
    epoch: Whole
    loss: StrictFloat
    source_hardness: StrictFloat
    destination_hardness: StrictFloat
    hardness: StrictFloat
    moved: StrictFloat
    passes: StrictFloat
    seconds: StrictFloat
    waited: StrictFloat


class Cost(TypedDict, total=False):
    """What training took: optimiser steps, images passed forward, and seconds in these steps."""

    steps: Whole
    passes: Annotated[StrictFloat, Field(ge=0, le=1e30)]
    seconds: Annotated[StrictFloat, Field(ge=0, le=1e30)]


class _Epoch(TypedDict):
    step: Annotated[StrictStr, Field(pattern="^[0-9]{1,18}$")]


@dataclass
class Place:
    """How far a run has come: everything that is not a tensor and not derived from the settings."""

    epoch: Whole = 0
    batch: Whole = 0
    step: Whole = 0
    best: StrictFloat = -inf
    collapsed: Whole = 0


@dataclass(frozen=True)
class State:
    """Where a run stands: ``tensors`` by name, and its ``place``."""

    tensors: dict[str, Tensor]
    place: Place = field(default_factory=Place)


class Run:
    """The files of one training run."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.config_file = self.folder / "config.yaml"
        self.state_file = self.folder / "state.safetensors"
        self.steps_file = self.folder / "steps.jsonl"
        self.epochs_file = self.folder / "epochs.csv"
        self.cost_file = self.folder / "cost.json"
        self.best = self.folder / "best"

    def begin(self, config: Config, resume: bool) -> State | None:
        """Take the folder for a run with these settings; the state to go on from where there is one.

        Raises HoldfastError when the folder holds a run and ``resume`` is false, or a run with other settings.
        """
        self.check(config, resume)
        state = self.load_state() if self.state_file.exists() else None
        write_text(self.config_file, config.to_yaml())
        write_json(self.folder / "environment.json", environment())
        self._rewind(state.place.step if state else 0)
        return state

    def check(self, config: Config, resume: bool) -> None:
        """Refuse a folder that :meth:`begin` would refuse; nothing is written."""
        if not resume and (self.config_file.exists() or self.state_file.exists()):
            raise HoldfastError(f"{self.folder} holds a run already; add --resume, or give another --out")
        if self.state_file.exists() and (changed := differences(self.config(), config)):
            raise HoldfastError(
                f"{self.folder} was begun with other settings; resume with the same, or give another --out. "
                f"Changed: {'; '.join(changed)}"
            )

    def config(self) -> Config:
        """The settings the run was begun with."""
        if not self.config_file.exists():
            raise HoldfastError(f"{self.folder} is no run folder: it has no config.yaml")
        tree = read_yaml(self.config_file)
        with within(self.config_file):
            return resolve_config(BEFORE, tree)

    def load_state(self) -> State:
        with self._state() as (file, place):
            return State({key: file.get_tensor(key) for key in file.keys()}, place)  # noqa: SIM118

    def place(self) -> Place:
        """How far the last saved state had come, without its tensors; at the begin where nothing was saved."""
        if not self.state_file.exists():
            return Place()
        with self._state() as (_, place):
            return place

    @contextmanager
    def _state(self) -> Iterator[tuple[Any, Place]]:
        try:
            with safe_open(self.state_file, "pt") as file:
                yield file, fit(Place, parse_json(file.metadata()["progress"], "its progress"))
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise HoldfastError(f"{self.state_file} cannot be resumed from: {error}") from error

    def weights(self, best: bool) -> Path:
        """The folder of the embedder as it is now, or of that at the best validation."""
        if best and not self.best.is_dir():
            raise HoldfastError(f"{self.folder} has no best/: no validation chose any weights; leave out --best")
        return self.best if best else self.folder

    def cost(self) -> dict[str, float]:
        """What training took so far: ``steps``, ``passes`` (images passed forward), ``seconds`` in its steps.

        From its log, or where there is none from ``cost.json``, which an exported folder has; empty without either.
        """
        if not self.steps_file.exists():
            known = read_json(self.cost_file) if self.cost_file.exists() else {}
            check(Cost, known, str(self.cost_file))
            return {key: known[key] for key in Cost.__annotations__ if key in known}
        lines = self.steps()
        sums = {key: sum(line.get(key, 0.0) for line in lines) for key in ("passes", "seconds")}
        return {"steps": len(lines), **sums}

    def save_state(self, state: State) -> None:
        save_safetensors(self.state_file, state.tensors, {"progress": json.dumps(vars(state.place))})

    def log_step(self, values: Mapping[str, Any]) -> None:
        with self.steps_file.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def log_epoch(self, values: Mapping[str, Any]) -> None:
        """Append one row to ``epochs.csv``, in place of one of the same epoch: of a killed run, or a shorter one."""
        row = {key: str(value) for key, value in values.items()}
        self._write_epochs([*(one for one in self.epochs() if one.get("epoch") != row["epoch"]), row])

    def epochs(self) -> list[dict[str, str]]:
        return read_csv(_Epoch, self.epochs_file, "move it away")

    def steps(self) -> list[dict[str, Any]]:
        """The lines of ``steps.jsonl``; a last line cut short by a kill is left out."""
        return read_lines(_Step, self.steps_file, "move it away")

    def _rewind(self, step: int) -> None:
        """Drop what was logged after the state a resumed run goes on from."""
        lines = [line for line in self.steps() if line["step"] <= step]
        write_text(self.steps_file, "".join(json.dumps(line) + "\n" for line in lines))
        self._write_epochs([row for row in self.epochs() if int(row["step"]) <= step])

    def _write_epochs(self, rows: list[dict[str, str]]) -> None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        write_text(self.epochs_file, to_csv([columns, *(map(row.get, columns) for row in rows)]) if rows else "")


def environment() -> dict[str, Any]:
    """What a result depends on beside its settings."""
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name  # called by python -m holdfast
    return {
        "command": [name, *(QUERY.sub(r"\1", word) for word in sys.argv[1:])],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "git": _git(),
        "cuda": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _git() -> dict[str, Any] | None:
    """The commit of the code, and whether it has been changed since; None outside a checkout."""
    here = Path(__file__).parents[1]

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        ask("ls-files", "--error-unmatch", __file__)
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.CalledProcessError):
        return None
