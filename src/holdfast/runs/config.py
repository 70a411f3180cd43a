"""Settings as a tree of frozen dataclasses: the paper's defaults, then a YAML file, then ``--set key=value``."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from math import inf
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StrictBool, StrictInt

from holdfast.core.fused import PRECISIONS
from holdfast.core.pgd import crossing
from holdfast.core.samplers import SAMPLERS
from holdfast.core.steps import BALLS
from holdfast.data import DATASETS
from holdfast.data.resizing import INTERPOLATIONS, Resizing
from holdfast.defense.recipes import LossConfig, parse_recipe
from holdfast.util.errors import HoldfastError, pick
from holdfast.util.imports import CUSTOM
from holdfast.util.validate import Amount, Count, OneOf, Positive, Text, Texts, Whole, fit, parse_yaml


@dataclass(frozen=True)
class DataConfig:
    """``size`` is the side of the square the embedder sees; ``resize`` the side before cropping (null: no crop).
    ``interpolation``, ``fit`` and ``centring`` say how an image is brought there; see :class:`.Resizing`.

    ``noise`` is the σ of Gaussian noise, in units of the pixel range [0, 1], on every image that is learnt from.
    ``cache`` keeps the training images in memory once they are decoded; ``workers`` are threads that decode.
    """

    name: Text = "digits"
    root: Text | None = None
    size: Count = 28
    resize: Count | None = None
    interpolation: Annotated[str, OneOf(INTERPOLATIONS)] = Resizing.interpolation
    fit: Literal["squash", "shortest"] = Resizing.fit
    centring: Literal["down", "even"] = Resizing.centring
    augment: StrictBool = False
    noise: Amount = 0.0
    cache: StrictBool = False
    workers: Count = 2


@dataclass(frozen=True)
class BatchConfig:
    """``pairs`` groups of ``per_class`` images of one class, over all processes together."""

    pairs: Annotated[Whole, Field(ge=2)] = 128
    per_class: Annotated[Whole, Field(ge=2)] = 2


@dataclass(frozen=True)
class ModelConfig:
    """``batchnorm``: frozen, train, or auto (frozen with ``weights``, else trained). ``backbone``: see
    :func:`.find_backbone`; ``custom`` for a module given to :func:`holdfast.train`. ``weights``: a file, or
    ``imagenet`` for those of an installed package. ``partial``: ``weights`` may hold fewer than half of the network's
    tensors. ``trainable``: the parts of the network that train, such as ``layer4`` or ``fc``, and the rest stays as it
    is; ``head`` is the last layer, whatever its name; by default all train. ``gradient_checkpointing``: less memory for
    more time, with the same gradients; see :func:`.checkpoint_blocks`."""

    backbone: Text = "c2f2"
    dim: Annotated[Whole, Field(ge=2)] = 512
    weights: Text | None = None
    partial: StrictBool = False
    batchnorm: Literal["auto", "frozen", "train"] = "auto"
    trainable: Texts = ()
    gradient_checkpointing: StrictBool = False


@dataclass(frozen=True)
class PGDConfig:
    """The training adversary; ``eps``, ``step`` and ``start`` are in units of the pixel range [0, 1], 8/255 will do."""

    norm: Annotated[str, OneOf(BALLS)] = "linf"
    eps: Amount = 77 / 255
    step: Amount = 3 / 255
    steps: Whole = 32
    start: Amount = 0.0


@dataclass(frozen=True)
class OptimConfig:
    """``schedule``: constant, or falling to zero, once the rate has risen for ``warmup_ratio`` of all steps.

    ``epochs``: of hardening. ``head_lr``: rate of the last layer that images pass through, where it is another.
    ``layer_decay``: what each layer's rate is multiplied by to give that of the layer before. ``clip``: largest
    gradient norm. ``ema``: decay of an average of the weights that is evaluated in their place.
    """

    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Amount = 1e-3
    weight_decay: Amount = 1e-7
    epochs: Whole = 8
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_ratio: Annotated[Amount, Field(lt=1)] = 0.0
    head_lr: Positive | None = None
    layer_decay: Annotated[Positive, Field(le=1)] = 1.0
    clip: Positive | None = None
    ema: Annotated[Amount, Field(lt=1)] | None = None


@dataclass(frozen=True)
class WarmupConfig:
    """Before hardening: ``epochs`` of plain training on triplets of ``sampler``; then the radius rises for ``ramp``."""

    epochs: Whole = 0
    sampler: Annotated[str, OneOf(SAMPLERS)] = "R"
    ramp: Whole = 0


@dataclass(frozen=True)
class ValidationConfig:
    """After every ``every`` epochs (0: never); ``attacked`` queries also under an embedding shift.

    ``share`` of the training split is set aside for it, and chooses ``best/``; with 0 all of it trains, and no weights
    are chosen. ``on_test``: the test set chooses in its place, and every result of these weights says so.
    """

    every: Whole = 1
    attacked: Whole = 256
    share: Annotated[Amount, Field(le=0.5)] = 0.1
    on_test: StrictBool = False


@dataclass(frozen=True)
class Config:
    """One training run, whole.

    ``recipe``: ``custom`` for a defense given to :func:`holdfast.train`. ``steps`` ends the run early, after so many
    optimiser steps. ``precision``: float32, or bfloat16 for autocast with distances in float32. A run that has
    collapsed stops unless told otherwise.
    """

    recipe: Text = "hm-s-lga-ics"
    seed: Annotated[StrictInt, Field(ge=0, lt=2**64)] = 0
    steps: Count | None = None
    precision: Annotated[str, OneOf(PRECISIONS)] = "float32"
    tracker: Literal["tensorboard", "wandb"] | None = None
    stop_on_collapse: StrictBool = True
    save_minutes: Amount = 5.0
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    pgd: PGDConfig = field(default_factory=PGDConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    @property
    def chosen_on(self) -> str | None:
        """The data set whose test images choose the best weights; None where others do."""
        return self.data.name if self.validation.on_test else None

    def to_yaml(self) -> str:
        """The whole tree as YAML that :func:`resolve_config` reads back to an equal one."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


Tree = dict[str, Any]

FAMILIES: dict[str, Tree] = {
    "28": {},
    "224": {
        **{"data.size": 224, "data.augment": True, "batch.pairs": 56, "model.backbone": "resnet18"},
        **{"pgd.eps": 8 / 255, "pgd.step": 1 / 255, "pgd.steps": 8},
        **{"optim.lr": 1e-5, "optim.weight_decay": 4e-4, "optim.epochs": 75},
    },
}
"""The paper's settings, by the family of the data set."""
OWN: dict[str, Tree] = {"digits": {"data.size": 8}, "sop": {"loss.structure": 0.05}}
UNLABELLED: Tree = {"validation.every": 0}
RANDOM_WEIGHTS: Tree = {"optim.lr": 3e-4}
WARMED_UP: Tree = {"warmup.epochs": 20, "warmup.sampler": "R"}
NEAR_ORIGINAL: Tree = {
    **{"optim.name": "adamw", "optim.lr": 1e-5, "optim.weight_decay": 1e-4},
    **{"optim.schedule": "cosine", "optim.warmup_ratio": 0.07, "pgd.steps": 10},
}
"""FARE's settings (Schlarmann et al. 2024), of every recipe that keeps the original."""
HARMLESS = frozenset(
    {
        *("data.root", "data.cache", "data.workers", "model.partial", "model.gradient_checkpointing"),
        *("tracker", "save_minutes", "stop_on_collapse"),
    }
)
LENGTHS = ("optim.epochs", "steps")
IMAGENET = "imagenet"
PRETRAINED = ("efficientnet_lite0",)
"""Backbones that start from ImageNet weights by default, which a package has."""
AS_IT_IS = "model:"
"""What stands before the word of a model that is a backbone as it came, where the word alone means another: a
network of timm without its classifier, and what a module's own function gives when it is called without arguments."""
ENCODERS = ("hf", "st", "open_clip", AS_IT_IS.removesuffix(":"))
"""What stands before the colon of a backbone that came with its own weights."""
CROP_MARGIN = Fraction(256, 224)


def starts_trained(config: Config) -> bool:
    """Whether the weights that training starts from are not random."""
    return config.model.weights is not None or is_encoder(config.model.backbone)


def is_encoder(backbone: str) -> bool:
    """Whether a backbone is a model that came as it is, from another library or from code; see :data:`ENCODERS`."""
    prefix, colon, _ = backbone.partition(":")
    return bool(colon) and prefix in ENCODERS


def resolve_config(*given: Mapping[str, Any], assignments: Iterable[str] = ()) -> Config:
    """The settings of a run: the paper's for the kind of data, then each of ``given``, then the ``key=value`` ones.

    ``given`` are trees or have dotted keys. Backbones of :data:`PRETRAINED` start from ImageNet weights unless
    ``model.weights`` is given, null for random ones. Networks that start from random weights, other than C2F2 on
    28-pixel sets, get a larger learning rate and, before a defense, a plain warm-up: hardened from scratch they
    collapse. Recipes that keep the original network have FARE's settings. Raises HoldfastError for a key or value that
    does not fit, naming the nearest.
    """
    chosen: Tree = {}
    for tree in (*given, assigned(assignments)):
        chosen |= flatten(tree)
    name = str(chosen.get("data.name", DataConfig.name))
    family = pick("data set", name, DATASETS).family
    usual = FAMILIES[family] | OWN.get(name, {}) | ({} if DATASETS[name].labelled else UNLABELLED)
    if chosen.get("model.backbone") in PRETRAINED:
        chosen.setdefault("model.weights", IMAGENET)
    backbone = str(chosen.get("model.backbone", ModelConfig.backbone))
    given_as, recipe = str(chosen.get("recipe", Config.recipe)), None
    if given_as != CUSTOM:
        recipe = parse_recipe(given_as)
    if recipe is not None and recipe.keeps_original:
        usual |= NEAR_ORIGINAL
    elif chosen.get("model.weights") is None and (family == "224" or backbone != "c2f2") and not is_encoder(backbone):
        usual |= RANDOM_WEIGHTS
        if recipe is None or recipe.perturbs:
            usual |= WARMED_UP
    config = fit(Config, _nested(usual | chosen))
    if recipe is not None and recipe.keeps_original and "pgd.step" not in chosen:
        config = replace(config, pgd=replace(config.pgd, step=crossing(config.pgd.eps, config.pgd.steps)))
    if family == "224" and "data.resize" not in chosen:
        config = replace(config, data=replace(config.data, resize=round(config.data.size * CROP_MARGIN)))
    _check(config)
    return config


def assigned(assignments: Iterable[str]) -> Tree:
    """``["optim.lr=1e-4"] -> {"optim.lr": "1e-4"}``, values as YAML reads them."""
    found: Tree = {}
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign or not key.strip():
            raise HoldfastError(f"--set takes key=value, such as optim.lr=1e-4; got {assignment!r}")
        found |= flatten({key.strip(): parse_yaml(value, f"--set {assignment}: the value")})
    return found


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> Tree:
    """``{"optim": {"lr": 1}} -> {"optim.lr": 1}``."""
    flat: Tree = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def decisive(config: Config) -> Tree:
    """The settings that can change the weights, with dotted keys."""
    chosen = {key: value for key, value in flatten(asdict(config)).items() if key not in HARMLESS}
    return {key: [*value] if isinstance(value, tuple) else value for key, value in chosen.items()}


def differences(old: Config, new: Config) -> list[str]:
    """Where a run with new settings is not the old one, or that one and longer: what changes its weights, line by line.

    A learning rate that changes over the whole run changes otherwise in a longer one.
    """
    before, after = decisive(old), decisive(new)
    changed = {key for key in before if before[key] != after[key]}
    if new.optim.schedule == "constant" and not new.optim.warmup_ratio:
        changed -= {key for key in LENGTHS if _length(after[key]) > _length(before[key])}
    return [f"{key}: {before[key]!r} -> {after[key]!r}" for key in before if key in changed]


def _length(value: int | None) -> float:
    return inf if value is None else value


def _nested(flat: Tree) -> Tree:
    """``{"optim.lr": 1} -> {"optim": {"lr": 1}}``; a value in the place of a section stays, to be refused."""
    sections: defaultdict[str, Tree] = defaultdict(dict)
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if dot:
            sections[section][name] = value
    return {**sections, **{key: value for key, value in flat.items() if "." not in key}}


def _check(config: Config) -> None:
    data, pgd = config.data, config.pgd
    if config.recipe != CUSTOM and parse_recipe(config.recipe).keeps_original and config.warmup.epochs:
        raise HoldfastError(
            f"recipe {config.recipe!r} stays near the network that training starts from, and warmup.epochs "
            f"{config.warmup.epochs} would lead away from it first: train that network by a recipe of its own"
        )
    if config.validation.every and not DATASETS[data.name].labelled:
        raise HoldfastError(
            f"data set {data.name!r} has no classes to validate by: leave validation.every at 0; the log says how far "
            "embeddings are from the original's, attacked and, by lore, clean"
        )
    if config.optim.epochs + config.warmup.epochs < 1:
        raise HoldfastError("optim.epochs and warmup.epochs are both 0: there is nothing to train")
    for key, size in {"eps": pgd.eps, "step": pgd.step, "start": pgd.start}.items():
        if pgd.norm == "linf" and size > 1:
            raise HoldfastError(f"pgd.{key} is in units of the pixel range [0, 1], as 8/255, not {size!r}")
    if data.resize is not None and data.resize < data.size:
        raise HoldfastError(f"data.resize {data.resize} is smaller than the crop data.size {data.size}")
