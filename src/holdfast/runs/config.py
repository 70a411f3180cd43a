"""Settings as a tree of frozen dataclasses: the paper's defaults, then a YAML file, then ``--set key=value``."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from fractions import Fraction
from math import isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from holdfast.core.fused import PRECISIONS
from holdfast.core.pgd import BALLS
from holdfast.core.samplers import SAMPLERS
from holdfast.data import DATASETS
from holdfast.defense.recipes import LossConfig, parse
from holdfast.training.trackers import TRACKERS
from holdfast.util.errors import HoldfastError, pick, unknown

Section = TypeVar("Section")


@dataclass(frozen=True)
class DataConfig:
    """``size`` is the side of the square the embedder sees; ``resize`` the side before cropping (null: no crop).

    ``cache`` keeps the training images in memory once they are decoded; ``workers`` are threads that decode.
    """

    name: str = "digits"
    root: str | None = None
    size: int = 28
    resize: int | None = None
    augment: bool = False
    cache: bool = False
    workers: int = 2


@dataclass(frozen=True)
class BatchConfig:
    """``pairs`` groups of ``per_class`` images of one class, over all processes together."""

    pairs: int = 128
    per_class: int = 2


@dataclass(frozen=True)
class ModelConfig:
    """``batchnorm``: frozen, train, or auto (frozen with ``weights``, else trained)."""

    backbone: str = "c2f2"
    dim: int = 512
    weights: str | None = None
    batchnorm: str = "auto"


@dataclass(frozen=True)
class PGDConfig:
    """The training adversary; ``eps``, ``step`` and ``start`` are in units of the pixel range [0, 1], 8/255 will do."""

    norm: str = "linf"
    eps: float = 77 / 255
    step: float = 3 / 255
    steps: int = 32
    start: float = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """``name``: adam, adamw or sgd. ``schedule``: constant, cosine or linear (both to zero). ``epochs`` of hardening.

    ``clip``: largest gradient norm. ``ema``: decay of an average of the weights that is evaluated in their place.
    """

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 1e-7
    epochs: int = 8
    schedule: str = "constant"
    clip: float | None = None
    ema: float | None = None


@dataclass(frozen=True)
class WarmupConfig:
    """Before hardening: ``epochs`` of plain training on triplets of ``sampler``; then the radius rises for ``ramp``."""

    epochs: int = 0
    sampler: str = "R"
    ramp: int = 0


@dataclass(frozen=True)
class ValidationConfig:
    """After every ``every`` epochs (0: never), on the test set; ``attacked`` queries also under an embedding shift."""

    every: int = 1
    attacked: int = 256


@dataclass(frozen=True)
class Config:
    """One training run, whole.

    ``steps`` ends the run early, after so many optimiser steps. ``precision``: float32, or bfloat16 for autocast with
    distances in float32. ``tracker``: tensorboard or wandb. A run that has collapsed stops unless told otherwise.
    """

    recipe: str = "hm-s-lga-ics"
    seed: int = 0
    steps: int | None = None
    precision: str = "float32"
    tracker: str | None = None
    stop_on_collapse: bool = True
    save_minutes: float = 5.0
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pgd: PGDConfig = field(default_factory=PGDConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def to_yaml(self) -> str:
        """The whole tree as YAML that :func:`resolve_config` reads back to an equal one."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


Tree = dict[str, Any]

PAPER_28: Tree = {}
PAPER_224: Tree = {
    "data": {"size": 224, "augment": True},
    "batch": {"pairs": 56},
    "model": {"backbone": "resnet18"},
    "pgd": {"eps": 8 / 255, "step": 1 / 255, "steps": 8},
    "optim": {"lr": 1e-5, "weight_decay": 4e-4, "epochs": 75},
}
FAMILIES: dict[str, Tree] = {"28": PAPER_28, "224": PAPER_224}
OWN: dict[str, Tree] = {
    "digits": {"data": {"size": 8}},
    "sop": {"loss": {"structure": 0.05}},
}
RANDOM_WEIGHTS: Tree = {"optim": {"lr": 3e-4}}
WARMED_UP: Tree = {"warmup": {"epochs": 20, "sampler": "R"}}
HARMLESS = frozenset({"data.root", "data.cache", "data.workers", "tracker", "save_minutes", "stop_on_collapse"})
CROP_MARGIN = Fraction(256, 224)


def resolve_config(*given: Mapping[str, Any], assignments: Iterable[str] = ()) -> Config:
    """The settings of a run: the paper's for the kind of data, then each of ``given``, then the ``key=value`` ones.

    ``given`` are trees or have dotted keys. Networks that start from random weights, other than C2F2 on 28-pixel sets,
    get a larger learning rate and, before a defense, a plain warm-up: hardened from scratch they collapse. Raises
    HoldfastError for a key or value that does not fit, naming the nearest.
    """
    chosen: Tree = {}
    for tree in (*map(_nested, given), _assigned(assignments)):
        chosen = _merge(chosen, tree)
    name = str(_section(chosen, "data").get("name", DataConfig.name))
    family = pick("data set", name, DATASETS).family
    tree = _merge(FAMILIES[family], OWN.get(name, {}))
    model = _section(_merge(tree, chosen), "model")
    if model.get("weights") is None and (family == "224" or model.get("backbone", "c2f2") != "c2f2"):
        tree = _merge(tree, RANDOM_WEIGHTS)
        if parse(str(chosen.get("recipe", Config.recipe))).perturbs:
            tree = _merge(tree, WARMED_UP)
    tree = _merge(tree, chosen)
    data = _section(tree, "data")
    if family == "224" and "resize" not in data and isinstance(data.get("size"), int):
        tree = _merge(tree, {"data": {"resize": round(data["size"] * CROP_MARGIN)}})
    config = _build(Config, tree)
    _check(config)
    return config


def read_yaml(path: Path) -> Tree:
    """The mapping in a YAML file; HoldfastError names the file where it is absent or no mapping."""
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise HoldfastError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2024-13-01
        raise HoldfastError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise HoldfastError(f"{path} holds {type(tree).__name__}, not a mapping of settings")
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"optim": {"lr": 1}} -> {"optim.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def decisive(config: Config) -> Tree:
    """The settings that can change the weights, with dotted keys."""
    return {key: value for key, value in flatten(asdict(config)).items() if key not in HARMLESS}


def differences(old: Config, new: Config) -> list[str]:
    """Where two settings differ in what can change the weights, one line each."""
    before, after = decisive(old), decisive(new)
    return [f"{key}: {before[key]!r} -> {after[key]!r}" for key in before if before[key] != after[key]]


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _nested(given: Mapping[str, Any]) -> Tree:
    """Dotted keys unfolded: ``{"optim.lr": 1} -> {"optim": {"lr": 1}}``."""
    tree: Tree = {}
    for key, value in given.items():
        head, _, rest = str(key).partition(".")
        tree = _merge(tree, {head: _nested({rest: value}) if rest else value})
    return tree


def _assigned(assignments: Iterable[str]) -> Tree:
    tree: Tree = {}
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign or not key.strip():
            raise HoldfastError(f"--set takes key=value, such as optim.lr=1e-4; got {assignment!r}")
        try:
            tree = _merge(tree, _nested({key.strip(): yaml.safe_load(value)}))
        except (yaml.YAMLError, ValueError) as error:
            raise HoldfastError(f"--set {assignment}: the value is not YAML") from error
    return tree


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = tree.get(name, {})
    return section if isinstance(section, Mapping) else {}


def _build(cls: type[Section], tree: Mapping[str, Any], where: str = "") -> Section:
    assert is_dataclass(cls)
    kinds = get_type_hints(cls)
    names = [f.name for f in fields(cls)]
    values: Tree = {}
    for key, value in tree.items():
        if key not in names:
            raise unknown("setting", f"{where}{key}", [f"{where}{name}" for name in names])
        kind = kinds[key]
        if is_dataclass(kind):
            if not isinstance(value, Mapping):
                inner = ", ".join(f.name for f in fields(kind))
                raise HoldfastError(f"setting {where}{key} is a section ({inner}), not the value {value!r}")
            values[key] = _build(kind, value, f"{where}{key}.")  # type: ignore[arg-type]
        else:
            values[key] = _coerce(value, kind, f"{where}{key}")
    return cls(**values)


def _coerce(value: Any, kind: Any, key: str) -> Any:
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    if value is None and NoneType in kinds:
        return None
    wanted = next(k for k in kinds if k is not NoneType)
    if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            read = float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
            if isfinite(read):
                return read
        except (ValueError, ZeroDivisionError, OverflowError):
            pass
    elif wanted is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    elif isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)):
        return value
    number = "a finite number or a fraction such as 8/255"
    names = {int: "a whole number", float: number, bool: "true or false", str: "text"}
    orelse = " or null" if NoneType in kinds else ""
    raise HoldfastError(f"setting {key} takes {names[wanted]}{orelse}, not {value!r}")


CHOICES = {
    "precision": tuple(PRECISIONS),
    "tracker": tuple(TRACKERS),
    "model.batchnorm": ("auto", "frozen", "train"),
    "pgd.norm": tuple(BALLS),
    "optim.name": ("adam", "adamw", "sgd"),
    "optim.schedule": ("constant", "cosine", "linear"),
    "warmup.sampler": tuple(SAMPLERS),
}
SMALLEST: dict[str, float] = {
    "seed": 0,
    "steps": 1,
    "save_minutes": 0,
    "data.size": 1,
    "data.workers": 1,
    "batch.pairs": 2,
    "batch.per_class": 2,
    "model.dim": 2,
    "pgd.eps": 0,
    "pgd.step": 0,
    "pgd.steps": 0,
    "pgd.start": 0,
    "loss.margin": 0,
    "loss.structure": 0,
    "loss.boost": 0,
    "optim.lr": 0,
    "optim.weight_decay": 0,
    "optim.epochs": 0,
    "warmup.epochs": 0,
    "warmup.ramp": 0,
    "validation.every": 0,
    "validation.attacked": 0,
}


def _check(config: Config) -> None:
    flat = flatten(asdict(config))
    for key, allowed in CHOICES.items():
        if flat[key] is not None and flat[key] not in allowed:
            raise unknown(f"value of {key}", flat[key], allowed)
    for key, least in SMALLEST.items():
        if flat[key] is not None and not flat[key] >= least:
            raise HoldfastError(f"setting {key} is at least {least:g}, not {flat[key]!r}")
    if config.seed >= 2**64:
        raise HoldfastError(f"setting seed is below 2**64, not {config.seed}")
    if config.optim.epochs + config.warmup.epochs < 1:
        raise HoldfastError("optim.epochs and warmup.epochs are both 0: there is nothing to train")
    for key in ("pgd.eps", "pgd.step", "pgd.start"):
        if config.pgd.norm == "linf" and flat[key] > 1:
            raise HoldfastError(f"setting {key} is in units of the pixel range [0, 1], as 8/255, not {flat[key]!r}")
    if config.data.resize is not None and config.data.resize < config.data.size:
        raise HoldfastError(f"data.resize {config.data.resize} is smaller than the crop data.size {config.data.size}")
    if config.optim.ema is not None and not 0 <= config.optim.ema < 1:
        raise HoldfastError(f"setting optim.ema lies in [0, 1), not {config.optim.ema!r}")
    if config.optim.clip is not None and config.optim.clip <= 0:
        raise HoldfastError(f"setting optim.clip is above 0, not {config.optim.clip!r}")
    if config.loss.ceiling is not None and config.loss.ceiling <= 0:
        raise HoldfastError(f"setting loss.ceiling is above 0, not {config.loss.ceiling!r}")
