"""Evaluations of run folders, and of models by name: what the command line asks for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.core.pgd import Embed
from holdfast.data import DATASETS, Pixels, held_out, query_gallery
from holdfast.evaluation.evaluate import attack, evaluate
from holdfast.evaluation.result import Result
from holdfast.models.embedder import Embedder
from holdfast.models.open import load_model
from holdfast.models.preprocessing import SIDE
from holdfast.models.zoo import is_entry, located
from holdfast.runs.config import decisive, resolve
from holdfast.runs.data import pixels_of, table_of
from holdfast.runs.folder import Run
from holdfast.util.errors import HoldfastError
from holdfast.util.imports import CUSTOM


@dataclass(frozen=True)
class Subjected:
    """What is evaluated: a model, its test set, what to call it, what is known of it, and where results go."""

    embed: Embed
    pixels: Pixels
    name: str
    about: dict[str, Any]
    folder: Path

    def evaluate(self, protocol: str = "strict", **options: Any) -> Result:
        """See :func:`holdfast.evaluation.evaluate.evaluate`."""
        options = {"name": self.name, "about": self.about, "folder": self.folder, **options}
        return evaluate(self.embed, self.pixels, protocol, **options)

    def attack(self, name: str, folder: str | Path, **options: Any) -> list[dict[str, Any]]:
        """See :func:`holdfast.evaluation.evaluate.attack`."""
        return attack(self.embed, self.pixels, name, folder, **options)


def of_run(folder: str | Path, *, root: str | Path | None = None, best: bool = False) -> Subjected:
    """A run's embedder on its test set. root: where the data set lies now. best: the weights of the best validation.

    Results go into the run folder; those of an entry of the zoo into ``evaluations/NAME`` here.
    """
    run = Run(located(folder))
    config = run.config()
    if root is not None:
        config = replace(config, data=replace(config.data, root=str(root)))
    weights = run.weights(best)
    about = {
        "recipe": config.recipe,
        "backbone": config.model.backbone,
        "weights": "best" if best else "last",
        "training_steps": None if config.recipe == CUSTOM else config.pgd.steps,
        "seed": config.seed,
        "training": {"settings": decisive(config), **run.cost()},
    }
    pixels = pixels_of(config, table_of(config).test())
    name = run.folder.resolve().name + ("/best" if best else "")
    results = Path("evaluations") / name if is_entry(folder) else run.folder / "evaluations"
    return Subjected(Embedder.from_pretrained(weights).eval(), pixels, name, about, results)


def of_model(spec: str, pixels: Pixels, *, weights: str | Path | None = None) -> Subjected:
    """A model by name, as :func:`.models.open.load_model` has it, on a test set."""
    embed = load_model(spec, None if weights is None else Path(weights))
    name = spec.replace("/", "-").replace(":", "-").strip("-.")
    about = {"recipe": None, "backbone": spec, "weights": None if weights is None else Path(weights).name}
    return Subjected(embed, pixels, name, about, Path("evaluations") / name)


def subject(
    run: Path | None,
    model: str | None,
    *,
    weights: Path | None = None,
    data: str | None = None,
    root: Path | None = None,
    queries: Path | None = None,
    gallery: Path | None = None,
    size: int | None = None,
    resize: int | None = None,
    channels: int | None = None,
    best: bool = False,
) -> Subjected:
    """What the command line names: a run folder, or a model with a test set or with two lists of images."""
    if (run is None) == (model is None):
        raise HoldfastError("give a run folder or --model, one of the two")
    if run is not None:
        foreign = {
            **{"weights": weights, "data": data, "queries": queries, "gallery": gallery},
            **{"size": size, "resize": resize, "channels": channels},
        }
        for option, value in foreign.items():
            if value is not None:
                raise HoldfastError(f"--{option} goes with --model; the run {run} has its own")
        return of_run(run, root=root, best=best)
    assert model is not None
    if best:
        raise HoldfastError("--best goes with a run folder; with --model name the weights by --weights")
    if (queries is None) != (gallery is None):
        raise HoldfastError("--queries and --gallery go together: two CSVs with the columns path,label")
    if (data is None) == (queries is None):
        raise HoldfastError("a model needs a test set: --data NAME --root FOLDER, or --queries Q.csv --gallery G.csv")
    if queries is not None and root is not None:
        raise HoldfastError("--root goes with --data; the paths in --queries and --gallery are relative to these files")
    if queries is not None and gallery is not None:
        table = query_gallery(queries, gallery)
    else:
        table = held_out(str(data), root)
    colours = channels or (DATASETS[data].channels if data else 3)
    side = size or (resolve({"data.name": data}).data.size if data else SIDE)
    return of_model(model, Pixels(table, side, resize, channels=colours), weights=weights)


def another(spec: str) -> Embed:
    """A model for a transfer attack: a run folder, or a model by name."""
    if (located(spec) / "config.yaml").exists():
        return Embedder.from_pretrained(located(spec))
    return load_model(spec)


def evaluate_run(
    run: str | Path,
    protocol: str = "strict",
    *,
    root: str | Path | None = None,
    best: bool = False,
    **options: Any,
) -> Result:
    """Evaluate a run's embedder on its test set, into ``evaluations/`` of the run folder where no ``folder`` is given.

    root: where the data set lies now, if elsewhere than in training. best: the weights of the best validation.
    options: of :func:`holdfast.evaluate`.
    """
    return of_run(run, root=root, best=best).evaluate(protocol, **options)
