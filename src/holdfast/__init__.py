"""holdfast: image retrieval that holds fast under attack.

The names below are the public ones; each is loaded when it is first used, so that importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.config import Config, resolve
    from holdfast.data import DATASETS, Loader, PairBatches, Pixels, Table, load
    from holdfast.defense import Defense, Step
    from holdfast.embedder import Embedder, EmbedderConfig
    from holdfast.errors import HoldfastError
    from holdfast.perturb import L2, PGD, LInf
    from holdfast.recipes import RECIPES, Recipe, Strength, parse
    from holdfast.results import evaluate_run
    from holdfast.retrieval import Gallery, Queries
    from holdfast.samplers import SAMPLERS
    from holdfast.triplets import Triplets, hardness

__version__ = "0.1.0"

HOMES = {
    "config": ("Config", "resolve"),
    "data": ("DATASETS", "Loader", "PairBatches", "Pixels", "Table", "load"),
    "defense": ("Defense", "Step"),
    "embedder": ("Embedder", "EmbedderConfig"),
    "errors": ("HoldfastError",),
    "perturb": ("L2", "PGD", "LInf"),
    "recipes": ("RECIPES", "Recipe", "Strength", "parse"),
    "results": ("evaluate_run",),
    "retrieval": ("Gallery", "Queries"),
    "samplers": ("SAMPLERS",),
    "triplets": ("Triplets", "hardness"),
}

__all__ = [
    "DATASETS",
    "L2",
    "PGD",
    "RECIPES",
    "SAMPLERS",
    "Config",
    "Defense",
    "Embedder",
    "EmbedderConfig",
    "Gallery",
    "HoldfastError",
    "LInf",
    "Loader",
    "PairBatches",
    "Pixels",
    "Queries",
    "Recipe",
    "Step",
    "Strength",
    "Table",
    "Triplets",
    "evaluate_run",
    "hardness",
    "load",
    "parse",
    "resolve",
]


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"holdfast.{home}"), name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
