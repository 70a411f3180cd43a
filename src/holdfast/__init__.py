"""holdfast: image retrieval that holds fast under attack.

The names below are the public ones; each is loaded when it is first used, so that importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.attacks import ATTACKS
    from holdfast.core.gallery import Gallery, Queries
    from holdfast.core.gradients import NES, Square
    from holdfast.core.pgd import L2, PGD, LInf
    from holdfast.core.samplers import SAMPLERS
    from holdfast.core.triplets import Triplets, hardness
    from holdfast.data import (
        DATASETS,
        Dataset,
        Loader,
        PairBatches,
        Pixels,
        Table,
        held_out,
        load_dataset,
        query_gallery,
    )
    from holdfast.defense.base import Defense, Step
    from holdfast.defense.recipes import RECIPES, LossConfig, Recipe, parse_recipe
    from holdfast.evaluation.evaluate import attack, evaluate
    from holdfast.evaluation.protocols import PROTOCOLS, ers
    from holdfast.evaluation.result import Result
    from holdfast.models.adapters.base import OpenedModel
    from holdfast.models.embedder import Embedder, EmbedderConfig
    from holdfast.models.open import open_model
    from holdfast.models.preprocessing import Preprocessing
    from holdfast.runs.config import Config, resolve_config
    from holdfast.search.index import Index
    from holdfast.training.loop import train
    from holdfast.util.errors import HoldfastError

__version__ = "0.1.0"

HOMES = {
    "attacks": ("ATTACKS",),
    "evaluation.evaluate": ("attack", "evaluate"),
    "runs.config": ("Config", "resolve_config"),
    "data": (
        "DATASETS",
        "Dataset",
        "Loader",
        "PairBatches",
        "Pixels",
        "Table",
        "held_out",
        "load_dataset",
        "query_gallery",
    ),
    "defense.base": ("Defense", "Step"),
    "models.embedder": ("Embedder", "EmbedderConfig"),
    "util.errors": ("HoldfastError",),
    "search.index": ("Index",),
    "models.adapters.base": ("OpenedModel",),
    "models.open": ("open_model",),
    "models.preprocessing": ("Preprocessing",),
    "core.gallery": ("Gallery", "Queries"),
    "core.gradients": ("NES", "Square"),
    "core.pgd": ("L2", "PGD", "LInf"),
    "evaluation.protocols": ("PROTOCOLS", "ers"),
    "defense.recipes": ("RECIPES", "Recipe", "LossConfig", "parse_recipe"),
    "report": ("Result",),
    "core.samplers": ("SAMPLERS",),
    "core.triplets": ("Triplets", "hardness"),
    "training.loop": ("train",),
}

__all__ = [
    "ATTACKS",
    "DATASETS",
    "L2",
    "NES",
    "PGD",
    "PROTOCOLS",
    "RECIPES",
    "SAMPLERS",
    "Config",
    "Dataset",
    "Defense",
    "Embedder",
    "EmbedderConfig",
    "Gallery",
    "HoldfastError",
    "Index",
    "LInf",
    "Loader",
    "LossConfig",
    "OpenedModel",
    "PairBatches",
    "Pixels",
    "Preprocessing",
    "Queries",
    "Recipe",
    "Result",
    "Square",
    "Step",
    "Table",
    "Triplets",
    "attack",
    "ers",
    "evaluate",
    "hardness",
    "held_out",
    "load_dataset",
    "open_model",
    "parse_recipe",
    "query_gallery",
    "resolve_config",
    "train",
]


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"holdfast.{home}"), name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
