"""From settings to the objects they describe."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from holdfast.core.pgd import PGD
from holdfast.core.steps import BALLS
from holdfast.data import DATASETS, ImageBatches, PairBatches
from holdfast.defense.base import Defense
from holdfast.defense.recipes import parse_recipe
from holdfast.models.backbones import find_backbone, imagenet_weights
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.runs.config import IMAGENET, Config, starts_trained
from holdfast.training.checkpointing import checkpoint_blocks
from holdfast.training.layers import freeze_others, layers_of
from holdfast.util import distributed
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
    """The defense of the recipe, where none is given; and a line on it.

    Raises HoldfastError where it learns from labels and there are none, or compares with the original, and that has
    random weights.
    """
    if defense is None:
        recipe = parse_recipe(config.recipe)
        defense = recipe.build(pgd_of(config), config.loss)
        what, told = f"recipe {recipe.name!r}", f"recipe {recipe.notation}: {recipe.summary}"
    else:
        what = f"defense {type(defense).__name__}"
        told = f"{what}, given as an object"
    if defense.labels and not DATASETS[config.data.name].labelled:
        raise HoldfastError(
            f"{what} learns from classes, and data set {config.data.name!r} has none: use recipe fare "
            "or lore, or data sorted into classes (folder, nested, csv)"
        )
    if defense.keeps_original or defense.constraint is not None:
        if not (starts_trained(config) or config.model.backbone == CUSTOM):
            raise HoldfastError(
                f"{what} stays near the network that training starts from, and {config.model.backbone} "
                "starts from random weights: give it trained ones (--weights)"
            )
        if config.warmup.epochs:
            raise HoldfastError(f"{what} stays near the network that training starts from: set warmup.epochs to 0")
    return defense, told


def batches_of(config: Config, labels: npt.NDArray[np.int64], needed: bool) -> PairBatches | ImageBatches:
    """This process's share of the batches: of pairs, or where labels are not needed, of as many images one by one."""
    places = {"seed": config.seed, "rank": distributed.rank(), "world": distributed.world()}
    if needed or config.warmup.epochs:
        return PairBatches(labels, **asdict(config.batch), **places)
    return ImageBatches(len(labels), config.batch.pairs * config.batch.per_class, **places)


def embedder_of(config: Config, backbone: nn.Module | None = None) -> tuple[Embedder, str]:
    """The embedder, initialised from the seed or from its weights; and what of the weights did not match, or ``""``.

    backbone: a module in place of the one that the settings name.
    """
    torch.manual_seed(config.seed)
    model, channels = config.model, DATASETS[config.data.name].channels
    freeze = model.batchnorm == "frozen" or (model.batchnorm == "auto" and starts_trained(config))
    settings = EmbedderConfig(model.backbone, model.dim, channels, config.data.size, freeze_batchnorm=freeze)
    embedder = Embedder(settings, backbone)
    embedder.noise = config.data.noise
    if model.trainable:
        pixels = _images_like(config, next(embedder.backbone.parameters()))
        freeze_others(embedder.backbone, model.trainable, pixels)
    if model.gradient_checkpointing:
        checkpoint_blocks(embedder.backbone, model.backbone)
    if model.weights is None:
        own = None if backbone is not None else find_backbone(model.backbone).pretrained
        if own is not None:
            embedder.backbone.load_state_dict(own())
        return embedder, ""
    imagenet = model.weights == IMAGENET
    file = imagenet_weights(model.backbone) if imagenet else model.weights
    found = embedder.load_weights(file, model.partial).describe()
    return embedder, f"ImageNet weights of {model.backbone}: {found}" if imagenet else found


def _images_like(config: Config, weight: Tensor) -> Tensor:
    """Black images as a run is shown them, of the dtype and on the device of a network's weight."""
    channels, size = DATASETS[config.data.name].channels, config.data.size
    return torch.zeros(2, channels, size, size, dtype=weight.dtype, device=weight.device)


def pgd_of(config: Config) -> PGD:
    """The training adversary."""
    settings = config.pgd
    return PGD(pick("norm", settings.norm, BALLS)(settings.eps), settings.step, settings.steps, settings.start)


def optimizer_of(config: Config, embedder: nn.Module) -> Optimizer:
    """The optimiser of the embedder's parameters that learn; ``initial_lr`` of each group is its rate at the begin.

    ``optim.layer_decay`` and ``head_lr`` count :func:`.layers_of`: from the head back, without parts that do not learn.
    Raises HoldfastError where no parameter learns.
    """
    settings = config.optim
    learning = {name: one for name, one in embedder.named_parameters() if one.requires_grad}
    if not learning:
        raise HoldfastError(f"no parameter of {config.model.backbone} learns: all have requires_grad False")
    by_layer = settings.head_lr is not None or settings.layer_decay != 1
    rates = dict.fromkeys(learning, settings.lr)
    layers = layers_of(embedder, _images_like(config, next(iter(learning.values())))) if by_layer else []
    for below, names in enumerate(reversed(layers)):
        rate = settings.lr * settings.layer_decay**below
        rates |= dict.fromkeys(names, rate if below or settings.head_lr is None else settings.head_lr)
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in learning.items():
        groups.setdefault(rates[name], []).append(parameter)
    make = pick("optimiser", settings.name, OPTIMIZERS)
    return make(
        [{"params": members, "lr": rate, "initial_lr": rate} for rate, members in groups.items()],
        weight_decay=settings.weight_decay,
    )
