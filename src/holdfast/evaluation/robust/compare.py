"""A hardened model beside its original: how far its embeddings have moved, and whether the old gallery still serves."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from holdfast.attacks import System
from holdfast.core.pgd import Embed
from holdfast.data import Pixels
from holdfast.evaluation.evaluate import Data, as_pixels, examined, results_folder, target_of
from holdfast.evaluation.fingerprint import describe_data, model_fingerprint
from holdfast.evaluation.records import Records
from holdfast.evaluation.robust.cascade import robust_recall
from holdfast.evaluation.runner import Target, attacked_rows
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.metrics.retrieval import retrieval_metrics
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.util import distributed
from holdfast.util.atomic import write_json
from holdfast.util.errors import HoldfastError
from holdfast.util.lock import working_in
from holdfast.util.progress import Progress

FORMAT = "holdfast-comparison-1"
ORIGINAL, HARDENED = "original", "hardened"
SIDES = ((ORIGINAL, ORIGINAL), (HARDENED, ORIGINAL), (HARDENED, HARDENED))
"""Which model embeds the queries, and which the gallery."""

Model = str | Path | Embed | OpenedModel


@dataclass(frozen=True)
class Robust:
    """Robust R@1 in percent at a radius: ``value`` with its 95 % interval, of ``queries`` attacked ones."""

    eps: float
    value: float
    low: float
    high: float
    queries: int


@dataclass(frozen=True)
class Search:
    """One model's queries in a gallery of one model: R@1 in percent as they are, and attacked."""

    queries: str
    gallery: str
    recall: float
    robust: tuple[Robust, ...]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` finds.

    cosine: mean of the cosines of the images' embeddings by both models, in [-1, 1]. searches: the original's as it
    was, the hardened model's queries in the original's gallery, and in a gallery of its own.
    """

    hardened: str
    original: str
    data: str
    norm: str
    seed: int
    images: int
    cosine: float
    searches: tuple[Search, ...]

    def write(self, path: Path) -> None:
        """As JSON."""
        write_json(path, {"format": FORMAT, **asdict(self)})


def compare(
    hardened: Model,
    original: Model,
    data: Data | None = None,
    *,
    eps: float | str | Sequence[float | str] | None = None,
    folder: str | Path | None = None,
    batch: int = 128,
    device: torch.device | str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Comparison:
    """Compare a hardened model with the one it was made from: does the gallery that was built with that still serve?

    Args:
        hardened: what :func:`.open_model` takes; new queries come from it.
        original: likewise, with embeddings as long; the old gallery comes from it.
        data: a test set, as for :func:`.evaluate`; None: that of the hardened model's own run.
        eps: one radius or several; by default the paper's for the data set. 0 attacks nothing.
        folder: attacks are recorded below it, in ``compare-HASH`` for each search and radius, and go on from there
            after a kill; the same ones need not be made again. None: in ``evaluations/`` of the run folder, of a
            hardened run on its own test set; any others are kept in memory.
        batch: images attacked at once.
        device: by default the GPU where there is one.
        settings: of :class:`.AttackSettings`: norm, gradient, precision, max_queries, seed.

    Robust R@1 is that of protocol ``worst``: queries are attacked knowing the model and the gallery they meet. Both
    models embed all images each time: their embeddings are what tells whose the records are.

    Raises HoldfastError where a model cannot be evaluated, or the two cannot be compared.
    """
    first, second = open_model(hardened), open_model(original)
    if folder is None and data is None:
        folder = results_folder(first)
    pixels = load_test_set(first) if data is None else as_pixels(data)
    radii = eps if isinstance(eps, Sequence) and not isinstance(eps, str) else [eps]
    black_box = first.black_box or second.black_box
    budgets = [resolve_settings(pixels.table.family, "worst", black_box, eps=radius, **settings) for radius in radii]
    where, usual = distributed.device(device), budgets[0]
    usual.require_no_index()
    white = usual.gradient == "white-box" and any(one.eps for one in budgets)
    with (
        examined(first.embed, pixels, where, usual, white) as new,
        examined(second.embed, others := shown_to(second, pixels), where, usual, white) as old,
    ):
        for wrapped in (new, old):
            wrapped.require_repeatable()
        targets = {HARDENED: target_of(new, pixels, where, quiet)[0], ORIGINAL: target_of(old, others, where, quiet)[0]}
        cosine, images = _cosine(targets)
        searches = tuple(
            _search(targets, sides, budgets, None if folder is None else Path(folder), batch=batch, quiet=quiet)
            for sides in SIDES
        )
    name = pixels.table.name
    return Comparison(first.name, second.name, name, usual.norm, usual.seed, images, cosine, searches)


def shown_to(model: OpenedModel, pixels: Pixels) -> Pixels:
    """The same images as another model is shown them, where it says how."""
    return pixels if model.preprocessing is None else model.preprocessing.pixels(pixels.table)


def _cosine(targets: dict[str, Target]) -> tuple[float, int]:
    """The mean cosine of embeddings by both models, and of how many images."""
    found = []
    for side in ("queries", "gallery"):
        new, old = (getattr(targets[name].system, side) for name in (HARDENED, ORIGINAL))
        if new.embeddings.shape[1] != old.embeddings.shape[1]:
            raise HoldfastError(
                f"the hardened model gives vectors of {new.embeddings.shape[1]} dimensions and the original of "
                f"{old.embeddings.shape[1]}: its gallery cannot be searched with the other's queries"
            )
        if not torch.equal(new.ids, old.ids):
            raise HoldfastError("an image that one of the models was shown can no longer be read")
        found += list(zip(new.ids.tolist(), cosine_similarity(new.embeddings, old.embeddings).tolist(), strict=True))
    cosines = dict(found)
    return sum(cosines.values()) / len(cosines), len(cosines)


def _search(
    targets: dict[str, Target],
    sides: tuple[str, str],
    budgets: Sequence[AttackSettings],
    folder: Path | None,
    *,
    batch: int,
    quiet: bool,
) -> Search:
    asking, asked = (targets[side] for side in sides)
    system = System(asking.system.queries, asked.system.gallery)
    target, robust = Target(asking.model, system, asking.pixels), []
    for resolved in budgets:
        rows = attacked_rows("query", target, resolved)
        identity = resolved.hash({"search": model_fingerprint(target)}, describe_data(asking.pixels))
        place = None if folder is None or not resolved.eps else folder / f"compare-{identity}"
        with working_in(place), Progress(f"{sides[0]} in {sides[1]}", 0, quiet=quiet) as progress:
            found, _ = robust_recall(target, resolved, rows, Records(place), progress, batch=batch)
        robust.append(Robust(resolved.eps, *(found[name] for name in ("value", "low", "high", "queries"))))
    recall = retrieval_metrics(system.queries, system.gallery)["R@1"]
    return Search(*sides, recall, tuple(robust))
