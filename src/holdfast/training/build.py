"""From settings to the objects they describe."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from holdfast.core.pgd import BALLS, PGD
from holdfast.data import DATASETS
from holdfast.defense.base import Defense
from holdfast.defense.recipes import parse_recipe
from holdfast.models.backbones import imagenet_weights
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.runs.config import IMAGENET, Config
from holdfast.util.errors import HoldfastError, brief, pick
from holdfast.util.imports import CUSTOM

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": partial(SGD, momentum=0.9)}


def with_objects(
    config: Config, defense: Defense | None, backbone: nn.Module | None
) -> tuple[Config, Defense | None, nn.Module | None]:
    """Settings that say which objects were given in place of names, and copies of these."""
    for what, value, kind in (("defense", defense, Defense), ("backbone", backbone, nn.Module)):
        if not isinstance(value, kind | None):
            shown = repr(value) if isinstance(value, str) else f"a {type(value).__name__}"
            raise HoldfastError(f"{what} is a {kind.__name__}, not {shown}: names go into the settings")
    if defense is not None:
        config = replace(config, recipe=CUSTOM)
    if backbone is not None:
        config = replace(config, model=replace(config.model, backbone=CUSTOM))
    try:
        return config, *deepcopy((defense, backbone))
    except Exception as error:
        raise HoldfastError(f"the defense or backbone given cannot be copied: {brief(error)}") from error


def defense_of(config: Config, defense: Defense | None = None) -> tuple[Defense, str]:
    """The defense of the recipe, where none is given; and a line on it."""
    if defense is not None:
        return defense, f"defense {type(defense).__name__}, given as an object"
    recipe = parse_recipe(config.recipe)
    return recipe.build(pgd_of(config), config.loss), f"recipe {recipe.notation}: {recipe.summary}"


def embedder_of(config: Config, backbone: nn.Module | None = None) -> tuple[Embedder, str]:
    """The embedder, initialised from the seed or from its weights; and what of the weights did not match, or ``""``.

    backbone: a module in place of the one that the settings name.
    """
    torch.manual_seed(config.seed)
    model, channels = config.model, DATASETS[config.data.name].channels
    freeze = model.batchnorm == "frozen" or (model.batchnorm == "auto" and model.weights is not None)
    settings = EmbedderConfig(model.backbone, model.dim, channels, config.data.size, freeze_batchnorm=freeze)
    embedder = Embedder(settings, backbone)
    embedder.noise = config.data.noise
    if model.weights is None:
        return embedder, ""
    imagenet = model.weights == IMAGENET
    file = imagenet_weights(model.backbone) if imagenet else model.weights
    found = embedder.load_weights(file, model.partial).describe()
    return embedder, f"ImageNet weights of {model.backbone}: {found}" if imagenet else found


def pgd_of(config: Config) -> PGD:
    """The training adversary."""
    settings = config.pgd
    return PGD(pick("norm", settings.norm, BALLS)(settings.eps), settings.step, settings.steps, settings.start)


def optimizer_of(config: Config, embedder: nn.Module) -> Optimizer:
    """The optimiser of all the embedder's parameters."""
    settings = config.optim
    make = pick("optimiser", settings.name, OPTIMIZERS)
    return make(embedder.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
