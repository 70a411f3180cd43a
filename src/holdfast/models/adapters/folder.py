"""What holdfast wrote: a run folder, ``zoo:NAME``, an embedder's folder, or an embedder on the Hub."""

from dataclasses import replace
from pathlib import Path

from holdfast.data import DATASETS
from holdfast.models import hub
from holdfast.models.adapters.base import OpenedModel, named
from holdfast.models.embedder import Embedder
from holdfast.models.preprocessing import Preprocessing
from holdfast.runs.config import decisive
from holdfast.runs.data import resizing_of
from holdfast.runs.folder import Run
from holdfast.util.errors import HoldfastError
from holdfast.util.imports import CUSTOM
from holdfast.util.validate import read_json


def open_folder(word: str | Path, weights: Path | None = None, best: bool = False) -> OpenedModel:
    """A run folder is opened with its settings and its cost, ``RUN/best`` with the weights of its best validation.

    An embedder alone, such as a copy of ``best/``, still says which weights these are, and what they were chosen on.

    Raises HoldfastError where there is nothing to open, or it is damaged.
    """
    if weights is not None:
        raise HoldfastError(f"{word} brings its own weights; leave out {weights}")
    folder = hub.located(word)
    run = Run(folder)
    inside = folder.name == run.best.name and not run.config_file.exists()
    run = Run(folder.parent) if inside else run
    if run.config_file.exists():
        return _run(run, best or inside, str(word))
    embedder = Embedder.from_pretrained(word)
    own = Preprocessing(embedder.config.size, channels=embedder.config.channels)
    opened, told = named(str(word), embedder, None, own), read_json(folder / "config.json")
    if "weights" not in told:
        return opened
    return replace(opened, about={**opened.about, "weights": told["weights"], "chosen_on": told.get("chosen_on")})


def _run(run: Run, best: bool, word: str) -> OpenedModel:
    config = run.config()
    embedder = Embedder.from_pretrained(run.weights(best))
    exported = read_json(run.folder / "config.json").get("weights")
    about = {
        "recipe": config.recipe,
        "backbone": config.model.backbone,
        "weights": "best" if best else exported or "last",
        "training_steps": None if config.recipe == CUSTOM else config.pgd.steps,
        "seed": config.seed,
        "training": {"settings": decisive(config), **run.cost()},
    }
    name = run.folder.resolve().name + ("/best" if best else "")
    shown = Preprocessing(
        config.data.size, config.data.resize, DATASETS[config.data.name].channels, resizing_of(config)
    )
    return OpenedModel(embedder, name, about, shown, run.folder, word)
