"""holdfast: image retrieval that holds fast under attack.

The names below are the public ones; each is loaded when it is first used, so that importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.attacks import ATTACKS, NES, Square
    from holdfast.audit import attack, evaluate
    from holdfast.config import Config, resolve
    from holdfast.data import DATASETS, Loader, PairBatches, Pixels, Table, held_out, load, query_gallery
    from holdfast.defense import Defense, Step
    from holdfast.embedder import Embedder, EmbedderConfig
    from holdfast.errors import HoldfastError
    from holdfast.index import Index
    from holdfast.models import load_model
    from holdfast.perturb import L2, PGD, LInf
    from holdfast.protocols import PROTOCOLS, ers
    from holdfast.recipes import RECIPES, Recipe, Strength, parse
    from holdfast.report import Result
    from holdfast.results import evaluate_run
    from holdfast.retrieval import Gallery, Queries
    from holdfast.samplers import SAMPLERS
    from holdfast.triplets import Triplets, hardness

__version__ = "0.1.0"

HOMES = {
    "attacks": ("ATTACKS", "NES", "Square"),
    "audit": ("attack", "evaluate"),
    "config": ("Config", "resolve"),
    "data": ("DATASETS", "Loader", "PairBatches", "Pixels", "Table", "held_out", "load", "query_gallery"),
    "defense": ("Defense", "Step"),
    "embedder": ("Embedder", "EmbedderConfig"),
    "errors": ("HoldfastError",),
    "index": ("Index",),
    "models": ("load_model",),
    "perturb": ("L2", "PGD", "LInf"),
    "protocols": ("PROTOCOLS", "ers"),
    "recipes": ("RECIPES", "Recipe", "Strength", "parse"),
    "report": ("Result",),
    "results": ("evaluate_run",),
    "retrieval": ("Gallery", "Queries"),
    "samplers": ("SAMPLERS",),
    "triplets": ("Triplets", "hardness"),
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
    "Defense",
    "Embedder",
    "EmbedderConfig",
    "Gallery",
    "HoldfastError",
    "Index",
    "LInf",
    "Loader",
    "PairBatches",
    "Pixels",
    "Queries",
    "Recipe",
    "Result",
    "Square",
    "Step",
    "Strength",
    "Table",
    "Triplets",
    "attack",
    "ers",
    "evaluate",
    "evaluate_run",
    "hardness",
    "held_out",
    "load",
    "load_model",
    "parse",
    "query_gallery",
    "resolve",
]


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"holdfast.{home}"), name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
