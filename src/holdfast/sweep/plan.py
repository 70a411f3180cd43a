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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from holdfast.data import PairBatches
from holdfast.defense.recipes import parse
from holdfast.evaluation.protocols import PROTOCOLS
from holdfast.evaluation.result import NAME, read
from holdfast.evaluation.settings import parse_radius, resolve_budget
from holdfast.runs.config import Config, Tree, flatten, read_yaml, resolve_config
from holdfast.runs.data import family_of, table_of
from holdfast.runs.folder import Run
from holdfast.training.loop import finished
from holdfast.util.errors import HoldfastError, unknown

SECTIONS = ("settings", "start", "runs", "evaluations")
START = "start"
RADII = ("eps", "step")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run: a protocol, settings of :func:`holdfast.evaluate`, and whether checks are made."""

    protocol: str
    settings: Tree
    checks: bool = True

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
        budget = resolve_budget(family_of(config), self.protocol, **self.settings)
        wanted = {**asdict(budget), "attacks": list(budget.attacks)}
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
            same = settings == wanted and content.get("protocol_version") == budget.rules.version
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
        try:
            labels = table_of(config).train().labels
        except HoldfastError as error:
            raise HoldfastError(f"{self.sweep}, {self.name}: {error}") from None
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
        if weights is not None and not begun and not Path(weights).exists():
            raise HoldfastError(f"{run.sweep}, {run.name}: there is no file of weights {weights}")
        run.run.check(run.config, resume=True)
    return chosen


def _runs(file: Path, out: Path) -> Iterator[Planned]:
    tree = read_yaml(file)
    for key in tree:
        if key not in SECTIONS:
            raise unknown(f"section of {file}", key, SECTIONS)
    settings = _mapping(file, "settings", tree.get("settings") or {})
    entries = tree.get("runs")
    if not isinstance(entries, list) or not entries:
        raise HoldfastError(f"{file}: 'runs' is a list of mappings, such as - {{recipe: [act-r, hm-s-m], seed: 0}}")
    ways = tree.get("evaluations") or []
    if not isinstance(ways, list):
        raise HoldfastError(
            f"{file}: 'evaluations' is a list of mappings, such as - {{protocol: strict}}, not {ways!r}"
        )
    evaluations = tuple(_evaluation(file, one) for one in ways)
    start = None
    if tree.get(START):
        first = {**settings, **_mapping(file, START, tree[START])}
        start = out / file.stem / START
        yield _planned(start, first, (), None)
        settings = {**settings, "model.weights": _weights(start)}
    found: dict[str, Planned] = {}
    for entry in entries:
        for axes in _combinations(file, _mapping(file, "runs", entry)):
            given = {**settings, **axes}
            run = _planned(out / file.stem / _name(file, given, axes), given, evaluations, start)
            if (other := found.get(run.name)) is None:
                found[run.name] = run
                yield run
            elif other.config != run.config:
                raise HoldfastError(f"{file}: two runs with other settings are both named {run.name}")


def _planned(folder: Path, given: Tree, evaluations: tuple[Evaluation, ...], start: Path | None) -> Planned:
    try:
        given = {**given, "recipe": parse(str(given.get("recipe", Config.recipe))).name}
        words = tuple(f"{key}={_text(value)}" for key, value in given.items())
        config = resolve_config(assignments=words)
        for one in evaluations:
            resolve_budget(family_of(config), one.protocol, **one.settings)
    except HoldfastError as error:
        raise HoldfastError(f"{folder.parent.name}, {folder.name}: {error}") from None
    return Planned(folder, config, words, evaluations, start)


def _mapping(file: Path, section: str, value: Any) -> Tree:
    if not isinstance(value, Mapping):
        raise HoldfastError(f"{file}: {section!r} takes settings as a mapping, not {value!r}")
    return flatten(value)


def _weights(start: Path) -> str:
    return str(start / "model.safetensors")


def _combinations(file: Path, entry: Tree) -> Iterator[Tree]:
    for key, value in entry.items():
        if value == []:
            raise HoldfastError(f"{file}: {key!r} of a run is an empty list; give a value, or leave it out")
    for values in product(*(value if isinstance(value, list) else [value] for value in entry.values())):
        yield dict(zip(entry, values, strict=True))


def _name(file: Path, given: Tree, axes: Tree) -> str:
    try:
        recipe = parse(str(given.get("recipe", Config.recipe))).name
    except HoldfastError as error:
        raise HoldfastError(f"{file}: {error}") from None
    others = (f"{key}={_text(value)}" for key, value in axes.items() if key != "recipe")
    return ",".join([recipe, *others]).replace("/", "of")


def _text(value: Any) -> str:
    """A value as ``--set`` reads it back."""
    if not isinstance(value, str):
        return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    try:
        return value if yaml.safe_load(value) == value else json.dumps(value)
    except yaml.YAMLError:
        return json.dumps(value)


def _evaluation(file: Path, given: Any) -> Evaluation:
    settings = {key: value for key, value in _mapping(file, "evaluations", given).items() if value is not None}
    protocol, checks = settings.pop("protocol", "strict"), settings.pop("checks", True)
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        raise HoldfastError(f"{file}: {unknown('protocol', protocol, PROTOCOLS)}")
    if not isinstance(checks, bool):
        raise HoldfastError(f"{file}: 'checks' of an evaluation is true or false, not {checks!r}")
    if isinstance(settings.get("attacks"), str):
        settings["attacks"] = [settings["attacks"]]
    attacks = settings.get("attacks", ["all"])
    if not isinstance(attacks, list) or not attacks or not all(isinstance(name, str) for name in attacks):
        raise HoldfastError(f"{file}: 'attacks' of an evaluation is a list of names, not {attacks!r}")
    for key in RADII:
        if isinstance(settings.get(key), str):
            try:
                settings[key] = parse_radius(settings[key], key)
            except HoldfastError as error:
                raise HoldfastError(f"{file}: {error}") from None
    return Evaluation(protocol, settings, checks)
