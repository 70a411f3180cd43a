"""From settings to the objects they describe."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from holdfast.core.pgd import BALLS, PGD
from holdfast.data import DATASETS
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.runs.config import Config
from holdfast.util.errors import pick

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"adam": Adam, "adamw": AdamW, "sgd": partial(SGD, momentum=0.9)}


def embedder_of(config: Config) -> tuple[Embedder, str]:
    """The embedder, initialised from the seed or from its weights; and what of the weights did not match, or ``""``."""
    torch.manual_seed(config.seed)
    model, channels = config.model, DATASETS[config.data.name].channels
    freeze = model.batchnorm == "frozen" or (model.batchnorm == "auto" and model.weights is not None)
    embedder = Embedder(EmbedderConfig(model.backbone, model.dim, channels, config.data.size, freeze_batchnorm=freeze))
    return embedder, "" if model.weights is None else embedder.load_weights(model.weights).describe()


def pgd_of(config: Config) -> PGD:
    """The training adversary."""
    settings = config.pgd
    return PGD(pick("norm", settings.norm, BALLS)(settings.eps), settings.step, settings.steps, settings.start)


def optimizer_of(config: Config, embedder: nn.Module) -> Optimizer:
    """The optimiser of all the embedder's parameters."""
    settings = config.optim
    make = pick("optimiser", settings.name, OPTIMIZERS)
    return make(embedder.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
