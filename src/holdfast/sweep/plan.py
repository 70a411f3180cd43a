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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, StrictStr

from holdfast.core.fused import PRECISIONS
from holdfast.core.pgd import BALLS
from holdfast.data import PairBatches
from holdfast.defense.recipes import parse_recipe
from holdfast.evaluation.protocols import PROTOCOLS
from holdfast.evaluation.result import NAME, read
from holdfast.evaluation.settings import GRADIENTS, resolve_settings
from holdfast.runs.config import Config, Tree, flatten, resolve_config
from holdfast.runs.data import family_of, table_of
from holdfast.runs.folder import Run
from holdfast.training.loop import finished
from holdfast.util.errors import HoldfastError, shown, unknown, within
from holdfast.util.validate import Amount, Count, OneOf, Whole, fit, parse_yaml, read_yaml

START = "start"
MAX_NAME_BYTES = 255


def _several(names: Any) -> Any:
    return [names] if isinstance(names, str) else names


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
    precision: Annotated[str, OneOf(PRECISIONS)] | None = None
    restarts: Whole | None = None
    max_queries: Count | None = None
    seed: Whole | None = None
    attacks: Annotated[list[StrictStr], BeforeValidator(_several), Field(min_length=1)] | None = None

    @property
    def settings(self) -> Tree:
        """The settings that are given."""
        given = asdict(self).items()
        return {key: value for key, value in given if key not in ("protocol", "checks") and value is not None}

    def options(self) -> list[str]:
        """As options of ``holdfast evaluate``."""
        words = ["--protocol", self.protocol]
        for key, value in self.settings.items():
            many = key == "attacks"
            for one in value if many else [value]:
                words += ["--attack" if many else f"--{key.replace('_', '-')}", str(one)]
        return words if self.checks else [*words, "--no-checks"]

    def done(self, run: Run, config: Config) -> bool:
        """Whether the run's folder holds its result, with these settings, of a training that cost what this one did."""
        resolved = resolve_settings(family_of(config), self.protocol, **self.settings)
        wanted = resolved.plain()
        cost = run.cost()
        for path in sorted(run.folder.glob(f"evaluations/{self.protocol}-*/{NAME}")):
            content = read(path).content
            model, settings = content["model"], content["settings"]
            training = model.get("training") or {}
            of_this = cost == {key: training.get(key) for key in cost}
            whole = (model.get("weights"), model.get("surrogate")) == ("last", None)
            checked = content.get("checks") or not self.checks or not settings.get("attacks")
            if content["collapsed"]:
                wanted["attacks"] = settings.get("attacks")
            same = settings == wanted and content.get("protocol_version") == resolved.rules.version
            if of_this and whole and same and checked:
                return True
        return False


@dataclass(frozen=True)
class Planned:
    """One run of a sweep: its folder, resolved settings, and the ``key=value`` that give them."""

    folder: Path
    config: Config
    given: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    start: Path | None = None

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
        if not self.trained():
            return list(self.evaluations)
        return [one for one in self.evaluations if not one.done(self.run, self.config)]

    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.trained() and not self.missing()

    def words(self) -> list[str]:
        """The arguments of ``holdfast`` that train it."""
        assignments = [word for one in self.given for word in ("--set", one)]
        return ["train", *assignments, "--out", str(self.folder), "--resume"]

    def steps(self) -> int:
        """Optimiser steps from begin to end. Reads the labels of the data set."""
        return sum(self.phases())

    def phases(self) -> tuple[int, int]:
        """Optimiser steps of the warm-up, and of what comes after it."""
        config = self.config
        with within(f"{self.sweep}, {self.name}"):
            labels = table_of(config).train().labels
        epoch = len(PairBatches(labels, config.batch.pairs, per_class=config.batch.per_class, seed=config.seed))
        warm, total = (epoch * epochs for epochs in (config.warmup.epochs, config.warmup.epochs + config.optim.epochs))
        if config.steps is not None:
            total = min(total, config.steps)
        return min(warm, total), total - min(warm, total)


def plan(files: Sequence[Path], out: Path, only: Sequence[str] = ()) -> list[Planned]:
    """The runs of sweep files, into ``out/STEM/NAME``; those named in ``only``, with the one they start from.

    What cannot work is refused here: an unknown key, a value that does not fit, a missing file of weights, a folder
    that holds a run with other settings; missing data as soon as steps are counted.
    """
    stems = [file.stem for file in files]
    if twice := {stem for stem in stems if stems.count(stem) > 1}:
        raise HoldfastError(f"two sweep files are named {twice.pop()!r}, and would share a folder in {out}")
    runs = [run for file in files for run in _runs(file, out)]
    names = [run.name for run in runs if run.name != START]
    for name in only:
        if name not in names:
            raise unknown("run", name, names)
    chosen = [run for run in runs if not only or run.name in only]
    needed = {run.start for run in chosen}
    chosen = [run for run in runs if run in chosen or run.folder in needed]
    for run in chosen:
        weights = run.config.model.weights
        begun = run.start is not None and weights == _weights(run.start)
        if weights is not None and not begun and not _exists(Path(weights)):
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


def _runs(file: Path, out: Path) -> Iterator[Planned]:
    content = fit(SweepFile, read_yaml(file), str(file))
    settings, evaluations = flatten(content.settings or {}), tuple(content.evaluations or ())
    start = None
    if content.start:
        start = out / file.stem / START
        yield _planned(start, settings | flatten(content.start), (), None)
        settings["model.weights"] = _weights(start)
    found: dict[str, Planned] = {}
    for entry in content.runs:
        for axes in _combinations(file, flatten(entry)):
            given = {**settings, **axes}
            run = _planned(out / file.stem / _name(file, given, axes), given, evaluations, start)
            if (other := found.get(run.name)) is None:
                found[run.name] = run
                yield run
            elif other.config != run.config:
                raise HoldfastError(f"{file}: two runs with other settings are both named {run.name}")


def _planned(folder: Path, given: Tree, evaluations: tuple[Evaluation, ...], start: Path | None) -> Planned:
    with within(f"{folder.parent.name}, {folder.name}"):
        given = {**given, "recipe": parse_recipe(str(given.get("recipe", Config.recipe))).name}
        words = tuple(f"{key}={_text(value)}" for key, value in given.items())
        config = resolve_config(assignments=words)
        for one in evaluations:
            resolve_settings(family_of(config), one.protocol, **one.settings)
    return Planned(folder, config, words, evaluations, start)


def _exists(path: Path) -> bool:
    with suppress(OSError):  # such as a name that is too long
        return path.exists()
    return False


def _weights(start: Path) -> str:
    return str(start / "model.safetensors")


def _combinations(file: Path, entry: Tree) -> Iterator[Tree]:
    for key, value in entry.items():
        if value == []:
            raise HoldfastError(f"{file}: {key!r} of a run is an empty list; give a value, or leave it out")
    for values in product(*(value if isinstance(value, list) else [value] for value in entry.values())):
        yield dict(zip(entry, values, strict=True))


def _name(file: Path, given: Tree, axes: Tree) -> str:
    with within(file):
        recipe = parse_recipe(str(given.get("recipe", Config.recipe))).name
    others = (f"{key}={_text(value)}" for key, value in axes.items() if key != "recipe")
    name = ",".join([recipe, *others]).replace("/", "of")
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise HoldfastError(f"{file}: the name of a run is too long for a folder: {shown(name)}")
    return name


def _text(value: Any) -> str:
    """A value as ``--set`` reads it back."""
    if not isinstance(value, str):
        return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    with suppress(HoldfastError):
        if parse_yaml(value, "text") == value:
            return value
    return json.dumps(value)
