"""holdfast: image retrieval that holds fast under attack.

The names below are the public ones; each is loaded when it is first used, so that importing the package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.attacks import ATTACKS as ATTACKS
    from holdfast.attacks.shared import Patch as Patch
    from holdfast.attacks.shared import Universal as Universal
    from holdfast.core.gallery import Gallery as Gallery
    from holdfast.core.gallery import Queries as Queries
    from holdfast.core.gradients import NES as NES
    from holdfast.core.gradients import Square as Square
    from holdfast.core.pgd import PGD as PGD
    from holdfast.core.samplers import SAMPLERS as SAMPLERS
    from holdfast.core.steps import L2 as L2
    from holdfast.core.steps import LInf as LInf
    from holdfast.core.triplets import Triplets as Triplets
    from holdfast.core.triplets import hardness as hardness
    from holdfast.data import DATASETS as DATASETS
    from holdfast.data import Dataset as Dataset
    from holdfast.data import ImageBatches as ImageBatches
    from holdfast.data import Loader as Loader
    from holdfast.data import PairBatches as PairBatches
    from holdfast.data import Pixels as Pixels
    from holdfast.data import Table as Table
    from holdfast.data import held_out as held_out
    from holdfast.data import load_dataset as load_dataset
    from holdfast.data import query_gallery as query_gallery
    from holdfast.defense.base import Defense as Defense
    from holdfast.defense.base import Step as Step
    from holdfast.defense.recipes import RECIPES as RECIPES
    from holdfast.defense.recipes import LossConfig as LossConfig
    from holdfast.defense.recipes import Recipe as Recipe
    from holdfast.defense.recipes import parse_recipe as parse_recipe
    from holdfast.evaluation.evaluate import evaluate as evaluate
    from holdfast.evaluation.protocols import PROTOCOLS as PROTOCOLS
    from holdfast.evaluation.protocols import ers as ers
    from holdfast.evaluation.result import Result as Result
    from holdfast.evaluation.robust.compare import Comparison as Comparison
    from holdfast.evaluation.robust.compare import compare as compare
    from holdfast.evaluation.saving import attack as attack
    from holdfast.models.adapters.base import OpenedModel as OpenedModel
    from holdfast.models.embedder import Embedder as Embedder
    from holdfast.models.embedder import EmbedderConfig as EmbedderConfig
    from holdfast.models.open import open_model as open_model
    from holdfast.models.preprocessing import Preprocessing as Preprocessing
    from holdfast.runs.config import Config as Config
    from holdfast.runs.config import resolve_config as resolve_config
    from holdfast.search.feedback.attack import attack_search as attack_search
    from holdfast.search.index import Index as Index
    from holdfast.threats.corruption import corrupt as corrupt
    from holdfast.threats.hub import attack_hub as attack_hub
    from holdfast.threats.shared import attack_shared as attack_shared
    from holdfast.threats.verification import verify as verify
    from holdfast.training.loop import train as train
    from holdfast.util.errors import HoldfastError as HoldfastError

__version__ = "0.1.0"

HOMES = {
    name: home
    for home, names in {
        "attacks": "ATTACKS",
        "attacks.shared": "Patch Universal",
        "core.gallery": "Gallery Queries",
        "core.gradients": "NES Square",
        "core.pgd": "PGD",
        "core.steps": "L2 LInf",
        "core.samplers": "SAMPLERS",
        "core.triplets": "Triplets hardness",
        "data": "DATASETS Dataset ImageBatches Loader PairBatches Pixels Table held_out load_dataset query_gallery",
        "defense.base": "Defense Step",
        "defense.recipes": "RECIPES LossConfig Recipe parse_recipe",
        "evaluation.evaluate": "evaluate",
        "evaluation.protocols": "PROTOCOLS ers",
        "evaluation.result": "Result",
        "evaluation.robust.compare": "Comparison compare",
        "evaluation.saving": "attack",
        "models.adapters.base": "OpenedModel",
        "models.embedder": "Embedder EmbedderConfig",
        "models.open": "open_model",
        "models.preprocessing": "Preprocessing",
        "runs.config": "Config resolve_config",
        "search.feedback.attack": "attack_search",
        "search.index": "Index",
        "threats.corruption": "corrupt",
        "threats.hub": "attack_hub",
        "threats.shared": "attack_shared",
        "threats.verification": "verify",
        "training.loop": "train",
        "util.errors": "HoldfastError",
    }.items()
    for name in names.split()
}
"""By public name: the module it is in."""

if not TYPE_CHECKING:  # who checks types finds the names above
    __all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f"holdfast.{HOMES[name]}"), name)
    raise AttributeError(f"module 'holdfast' has no attribute {name!r}")
