"""A matrix of runs from a YAML file: what to train, from which weights, and how to evaluate it.

::

    settings: {data: {name: fashion-mnist, root: data/fashion-mnist}, optim.epochs: 2}   # of every run
    start: {recipe: none-s, optim.epochs: 12}  # a run whose weights all others begin with; may be left out
    runs:                                      # each entry is every combination of its lists
      - {recipe: [act-r, hm-s-lga-ics], pgd.steps: [8, 32], seed: [0, 1, 2]}
    evaluations:                               # of every run
      - {protocol: strict, max_queries: 512}
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import product
from math import inf
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BeforeValidator, Field, StrictBool, StrictStr

from holdfast.core.fused import PRECISIONS
from holdfast.core.steps import BALLS
from holdfast.data import load_dataset
from holdfast.defense.recipes import parse_recipe
from holdfast.evaluation.protocols import PROTOCOLS
from holdfast.evaluation.result import NAME, read
from holdfast.evaluation.settings import GRADIENTS, resolve_settings
from holdfast.runs.config import IMAGENET, Config, Tree, flatten, resolve_config
from holdfast.runs.data import family_of
from holdfast.runs.folder import Run
from holdfast.training.build import batches_of
from holdfast.training.loop import finished
from holdfast.util.errors import HoldfastError, shown, unknown, within
from holdfast.util.validate import Amount, Count, OneOf, Positive, Text, Whole, fit, read_yaml

START = "start"
MAX_NAME_BYTES = 255
Names = Annotated[list[StrictStr], BeforeValidator(lambda one: [one] if isinstance(one, str) else one)]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run: a protocol, whether checks are made, and settings of :func:`holdfast.evaluate`."""

    protocol: Annotated[str, OneOf(PROTOCOLS)] = "strict"
    checks: StrictBool = True
    eps: Amount | None = None
    step: Amount | None = None
    steps: Whole | None = None
    norm: Annotated[str, OneOf(BALLS)] | None = None
    gradient: Annotated[str, OneOf(GRADIENTS)] | None = None
    query_budget: Count | None = None
    precision: Annotated[str, OneOf(PRECISIONS)] | None = None
    restarts: Whole | None = None
    max_queries: Count | None = None
    seed: Whole | None = None
    minimal_eps: StrictBool | None = None
    index: Text | None = None
    sigma: Positive | None = None
    draws: Count | None = None
    attacks: Annotated[Names, Field(min_length=1)] | None = None

    @property
    def settings(self) -> Tree:
        """The settings that are given."""
        given = asdict(self).items()
        return {key: value for key, value in given if key not in ("protocol", "checks") and value is not None}

    def options(self) -> list[str]:
        """As options of ``holdfast evaluate``."""
        given = {"protocol": self.protocol, **self.settings}
        flags = {"--certify": self.sigma, "--minimal-eps": self.minimal_eps, "--no-checks": not self.checks}
        taken = {key: value for key, value in given.items() if key not in ("attacks", "minimal_eps")}
        pairs = [(f"--{key.replace('_', '-')}", str(value)) for key, value in taken.items()]
        pairs += [("--attack", name) for name in self.attacks or ()]
        return [word for pair in pairs for word in pair] + [flag for flag, set_ in flags.items() if set_]

    def done(self, run: Run, config: Config) -> bool:
        """Whether the run's folder holds its result, with these settings, of a training that cost what this one did."""
        resolved = resolve_settings(family_of(config), self.protocol, **self.settings)
        cost = run.cost()
        for path in run.folder.glob(f"evaluations/{self.protocol}-*/{NAME}"):
            result = read(path)
            content, model, settings = result.content, result.content["model"], result.content["settings"]
            unattacked = {"attacks": settings.get("attacks")} if content["collapsed"] else {}
            if (
                settings == resolved.plain() | unattacked
                and content.get("protocol_version") == resolved.rules.version
                and (model.get("weights"), model.get("surrogate")) == ("last", None)
                and cost == {key: result.training.get(key) for key in cost}
                and (content.get("checks") or not self.checks or not settings.get("attacks"))
            ):
                return True
        return False


@dataclass(frozen=True)
class Planned:
    """One run of a sweep: its folder, resolved settings, and the ``key=value`` that give them."""

    folder: Path
    config: Config
    given: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    start: "Planned | None" = None

    @property
    def sweep(self) -> str:
        return self.folder.parent.name

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def run(self) -> Run:
        return Run(self.folder)

    def trained(self) -> bool:
        """Whether nothing is left to train."""
        return self.run.state_file.exists() and finished(self.run, self.config)

    def missing(self) -> list[Evaluation]:
        """The evaluations that are still to be made."""
        trained = self.trained()
        return [one for one in self.evaluations if not (trained and one.done(self.run, self.config))]

    def words(self) -> list[str]:
        """The arguments of ``holdfast`` that train it."""
        assignments = [word for one in self.given for word in ("--set", one)]
        return ["train", *assignments, "--out", str(self.folder), "--resume"]

    def steps(self) -> int:
        """Optimiser steps from begin to end. Reads the labels of the data set."""
        return sum(self.phases)

    @cached_property
    def phases(self) -> tuple[int, int]:
        """Optimiser steps of the warm-up, and of what comes after it."""
        config = self.config
        labels = _labels(config.data.name, config.data.root)
        with within(f"{self.sweep}, {self.name}"):
            epoch = len(batches_of(config, labels, parse_recipe(config.recipe).labels))
        warm, total = (epoch * epochs for epochs in (config.warmup.epochs, config.warmup.epochs + config.optim.epochs))
        total = total if config.steps is None else min(total, config.steps)
        return min(warm, total), total - min(warm, total)


@cache
def _labels(name: str, root: str | None) -> npt.NDArray[np.int64]:
    """The training labels of a data set, read once for all runs."""
    return load_dataset(name, root and Path(root)).train().labels


def plan(files: Sequence[Path], out: Path, only: Sequence[str] = (), given: Mapping[str, Any] = {}) -> list[Planned]:
    """The runs of sweep files, into ``out/STEM/NAME``; those named in ``only``, with the one they start from.

    given: settings of all runs, with dotted keys, in the place of those in the files. What cannot work is refused here:
    an unknown key, a value that does not fit, a missing file of weights, a folder that holds a run with other settings;
    missing data as soon as steps are counted.
    """
    stems = [file.stem for file in files]
    if twice := {stem for stem in stems if stems.count(stem) > 1}:
        raise HoldfastError(f"two sweep files are named {twice.pop()!r}, and would share a folder in {out}")
    runs = [run for file in files for run in _runs(file, out / file.stem, given)]
    names = [run.name for run in runs if run.name != START]
    for name in only:
        if name not in names:
            raise unknown("run", name, names)
    wanted = [run for run in runs if not only or run.name in only]
    chosen = [run for run in runs if run in wanted or run in [one.start for one in wanted]]
    for run in chosen:
        weights = run.config.model.weights
        exempt = (None, IMAGENET, run.start and _weights(run.start))
        if weights not in exempt and not os.path.exists(str(weights)):  # noqa: PTH110 (no error for long names)
            raise HoldfastError(f"{run.sweep}, {run.name}: there is no file of weights {weights}")
        run.run.check(run.config, resume=True)
    return chosen


@dataclass(frozen=True, kw_only=True)
class SweepFile:
    """The sections of a sweep file."""

    settings: dict[Any, Any] | None = None
    start: dict[Any, Any] | None = None
    runs: Annotated[list[dict[Any, Any]], Field(min_length=1)]
    evaluations: list[Evaluation] | None = None


def _runs(file: Path, folder: Path, given: Mapping[str, Any]) -> Iterator[Planned]:
    content = fit(SweepFile, read_yaml(file), str(file))
    settings = {**flatten(content.settings or {}), **given}
    start = None
    if content.start:
        start = _planned(folder / START, {**settings, **flatten(content.start), **given})
        settings["model.weights"] = _weights(start)
        yield start
    found: dict[str, Planned] = {}
    for entry in content.runs:
        tree = {key: given.get(key, value) for key, value in flatten(entry).items()}
        axes = [value if isinstance(value, list) else [value] for value in tree.values()]
        if [] in axes:
            raise HoldfastError(f"{file}: {list(tree)[axes.index([])]!r} of a run is an empty list; leave it out")
        for values in product(*axes):
            own = dict(zip(tree, values, strict=True))
            with within(file):
                name = _name({**settings, **own}, own)
            run = _planned(folder / name, {**settings, **own}, tuple(content.evaluations or ()), start)
            if (other := found.setdefault(name, run)) is run:
                yield run
            elif other.config != run.config:
                raise HoldfastError(f"{file}: two runs with other settings are both named {name}")


def _planned(
    folder: Path, tree: Tree, evaluations: tuple[Evaluation, ...] = (), start: Planned | None = None
) -> Planned:
    with within(f"{folder.parent.name}, {folder.name}"):
        tree = {**tree, "recipe": _recipe(tree)}
        config = resolve_config(tree)
        for one in evaluations:
            resolve_settings(family_of(config), one.protocol, **one.settings)
    return Planned(folder, config, tuple(f"{key}={_yaml(value)}" for key, value in tree.items()), evaluations, start)


def _yaml(value: Any) -> str:
    """A value as ``--set`` reads it back."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=inf)
    return text.removesuffix("...\n").rstrip("\n")


def _weights(start: Planned) -> str:
    return str(start.folder / "model.safetensors")


def _recipe(tree: Tree) -> str:
    return parse_recipe(str(tree.get("recipe", Config.recipe))).name


def _name(tree: Tree, axes: Tree) -> str:
    """The name of a run: its recipe, and what it sets itself."""
    plain = {key: json.dumps(one) if one is None or isinstance(one, bool) else one for key, one in axes.items()}
    name = ",".join([_recipe(tree), *(f"{key}={one}" for key, one in plain.items() if key != "recipe")])
    name = name.replace("/", "of")
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise HoldfastError(f"the name of a run is too long for a folder: {shown(name)}")
    return name
