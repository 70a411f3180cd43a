"""What is exported: an embedder, and what is known of the run that trained it."""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast import __version__
from holdfast.evaluation.result import NAME, Result, read
from holdfast.models.embedder import Embedder
from holdfast.models.open import open_model
from holdfast.runs.config import Config
from holdfast.runs.folder import Run
from holdfast.training.loop import finished
from holdfast.util.errors import HoldfastError


@dataclass(frozen=True)
class Source:
    """An embedder on the CPU, in evaluation mode and float32, as a run left it.

    weights: ``last`` or ``best``. results: evaluations of these weights, the first to be quoted first. cost: ``steps``,
    ``passes`` and ``seconds`` of training, as far as they are known. ended: not known to be still in training. origin:
    the backbone with its place on this machine. earlier: names of evaluations of earlier weights.
    """

    embedder: Embedder
    name: str
    config: Config
    weights: str
    results: tuple[Result, ...]
    cost: dict[str, float]
    ended: bool
    origin: str = ""
    earlier: tuple[str, ...] = ()

    @property
    def facts(self) -> dict[str, str]:
        """What an exported file says of itself."""
        model = self.embedder.config
        return {
            "holdfast": __version__,
            "recipe": self.config.recipe,
            "data": self.config.data.name,
            "backbone": model.backbone,
            "size": str(model.size),
            "channels": str(model.channels),
            "dim": str(model.dim),
            "images": "pixels in [0, 1]; mean and std are inside",
            "embeddings": "unit length",
        }


def open_run(word: str | Path, best: bool = False) -> Source:
    """A run folder, an exported folder or ``zoo:NAME``, to be exported. best: the weights of the best validation.

    Raises HoldfastError where it is none of them.
    """
    model = open_model(word, best=best)
    if model.folder is None or not isinstance(model.embed, Embedder):
        raise HoldfastError(f"{word} is no run folder: it has no config.yaml, which an export needs")
    run = Run(model.folder)
    config, weights = run.config(), str(model.about["weights"])
    results, earlier = results_and_earlier(run, weights)
    ended = not run.state_file.exists() or finished(run, config)
    origin = config.model.backbone
    config = replace(config, model=replace(config.model, backbone=_placeless(origin)))
    name, embedder = run.folder.resolve().name, frozen_copy(model.embed)
    return Source(embedder, name, config, weights, results, run.cost(), ended, origin, earlier)


def frozen_copy(embedder: Embedder) -> Embedder:
    """A copy to be exported: on the CPU, in evaluation mode, in float32, without parameter gradients.

    Its settings do not say where a file of code lies.
    """
    copy = deepcopy(embedder).cpu().float().eval().requires_grad_(False)
    copy.config = replace(copy.config, backbone=_placeless(copy.config.backbone))
    return copy


def _placeless(backbone: str) -> str:
    """``/x/net.py:build -> net.py:build``, ``hf:/x/encoder -> hf:encoder``: of each part between colons, its place."""
    parts = backbone.split(":")
    return ":".join(Path(one).name if one.endswith(".py") or Path(one).is_absolute() else one for one in parts)


def results_and_earlier(run: Run, weights: str) -> tuple[tuple[Result, ...], tuple[str, ...]]:
    """The evaluations of a run's weights in its folder, and the names of its other evaluations: going by the cost of
    training, of earlier weights.

    Those with an ERS come first, of these protocol strict, white-box before the rest, with the most images attacked;
    then by rising ε.
    """
    cost = run.cost()
    found = [read(path) for path in sorted(run.folder.glob(f"evaluations/*/{NAME}"))]
    if run.best.is_dir():
        found = [result for result in found if result.content["model"].get("weights") == weights]
    present, earlier = list[Result](), list[str]()
    for result in found:
        if cost.items() <= result.training.items():
            present.append(result)
        elif result.path is not None:
            earlier.append(result.path.parent.name)
    return tuple(sorted(present, key=_rank)), tuple(earlier)


def _rank(result: Result) -> tuple[bool, bool, bool, int, float]:
    whole, protocol = result.number("ERS") is not None, result.content["protocol"]
    attacked = result.content["data"].get("attacked") or 0
    return not whole, protocol != "strict", result.protocol != protocol, -attacked, result.eps or 0.0
