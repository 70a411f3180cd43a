"""Ranked lists of a few queries, clean and under attack, model beside model.

The only section that reads models and images.
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from holdfast.attacks.base import own_entries, visible_distances
from holdfast.core.gallery import Queries, nearest
from holdfast.data.pixels import to_image
from holdfast.evaluation.evaluate import prepared, runners_of
from holdfast.evaluation.fingerprint import model_fingerprint
from holdfast.evaluation.result import Result
from holdfast.evaluation.runner import Target, attack_batch
from holdfast.evaluation.settings import resolve_settings
from holdfast.evaluation.words import ATTACK_WORDS
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.report.html.checkpoints import Checkpoint
from holdfast.report.tables import format_radius
from holdfast.util.errors import HoldfastError

CLEAN = "clean"
ATTACKS = ("ltm", "es")
TOP = 5
"""Results shown for each query."""
MAX_SIDE = 56
"""Of a picture, in pixels."""
COLOURS = 64
MAX_CHARACTERS = 3_000_000
"""Of all pictures together; the queries beyond are left out."""


@dataclass(frozen=True)
class Hit:
    """A gallery image that was found. right: it is of the query's class."""

    picture: str
    name: str
    right: bool


@dataclass(frozen=True)
class Ranking:
    """The ranked list of a query. change: the perturbation, amplified; None where there is none."""

    title: str
    query: str
    change: str | None
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Comparison:
    """The ranked lists of several models, by name, for the same queries of a data set.

    gain: the factor by which perturbations are amplified. queries: the class of each, and its rankings by model, the
        clean one first. left_out: how many queries there was no room for.
    """

    dataset: str
    attack: str
    gain: float
    queries: tuple[tuple[str, dict[str, list[Ranking]]], ...]
    left_out: int


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What a model retrieves, clean and under each attack: images (Q, C, H, W), gallery rows (Q, k)."""

    target: Target
    queries: Queries
    images: dict[str, Tensor]
    rows: dict[str, Tensor]


def fill(checkpoints: Sequence[Checkpoint], count: int, root: str | Path | None) -> dict[str, Any]:
    """What ``rankings.html.j2`` shows; with a ``count`` of 0 nothing, and no model is read."""
    if not count:
        return {}
    made, remarks = comparisons(checkpoints, count, root)
    if not checkpoints:
        remarks.append("No result is in a run folder, so there is no model to show ranked lists of.")
    aims = {name.upper(): ATTACK_WORDS[name].aim for name in ATTACKS}
    return {"comparisons": made, "remarks": remarks, "aims": aims}


def comparisons(
    checkpoints: Sequence[Checkpoint], count: int, root: str | Path | None
) -> tuple[list[Comparison], list[str]]:
    """A comparison for each data set, and sentences on the models that have no part in it or have changed since.

    All models of a data set meet the same ``count`` queries, drawn by seed 0, and the :data:`ATTACKS` of protocol
    strict, with the radius, step, steps and norm that most of their evaluations had.
    """
    made: list[Comparison] = []
    remarks: list[str] = []
    failed: dict[str, list[str]] = {}
    by_data: dict[tuple[str, str], list[Checkpoint]] = {}
    for one in checkpoints:
        data = one.results[0].content["data"]
        by_data.setdefault((data["name"], str(data.get("hash"))), []).append(one)
    room = MAX_CHARACTERS
    for (dataset, _), known in by_data.items():
        settings = usual([result for one in known for result in one.results])
        found: dict[str, Retrieved] = {}
        for one in known:
            try:
                found[one.name] = retrieve(one, count, root, settings)
            except (HoldfastError, OSError, RuntimeError, TypeError) as error:
                failed.setdefault(" ".join(str(error).split()), []).append(one.name)
                continue
            exact = [result for result in one.results if "bfloat16" not in result.protocol]
            hashes = {result.content["model"].get("hash") for result in exact} - {None}
            if hashes and model_fingerprint(found[one.name].target) not in hashes:
                remarks.append(f"{one.name}: its weights or data have changed since the evaluation")
        if found:
            made.append(_comparison(dataset, settings, found, room))
            room -= _size(made[-1])
    return made, [f"{', '.join(names)}: no ranked lists; {why}" for why, names in failed.items()] + remarks


def usual(results: Sequence[Result]) -> dict[str, Any]:
    """The radius, step, steps and norm that most evaluations had; of several the largest radius."""
    names = ("eps", "step", "steps", "norm")
    counts = Counter(tuple(result.content["settings"].get(name) for name in names) for result in results)
    most = max(counts, key=lambda known: (counts[known], known[0] or 0.0, known[2] or 0))
    return dict(zip(names, most, strict=True))


def retrieve(checkpoint: Checkpoint, count: int, root: str | Path | None, settings: Mapping[str, Any]) -> Retrieved:
    """What a run's model retrieves. Raises HoldfastError where the model or its data cannot be read."""
    model = open_model(checkpoint.folder, best=checkpoint.best)
    pixels = load_test_set(model, root=root)
    resolved = resolve_settings(pixels.table.family, attacks=ATTACKS, max_queries=count, **settings)
    with prepared(model.embed, pixels, resolved) as target:
        images: dict[str, Tensor] = {}
        rows: dict[str, Tensor] = {}
        for runner in runners_of(target, resolved, count):
            attackable = runner.images
            queries = target.system.queries.take(attackable)
            generators = runner.generators(target, attackable)
            attacked = attack_batch(runner.attack, target, attackable, runner.pgd, generators=generators)
            with torch.no_grad():
                moved = replace(queries, embeddings=target.model(attacked.images))
            images |= {CLEAN: attacked.clean, runner.name: attacked.images}
            rows |= {CLEAN: _top(target, queries), runner.name: _top(target, moved)}
        return Retrieved(target, queries, images, rows)


def _top(target: Target, queries: Queries) -> Tensor:
    items = target.system.items
    return nearest(visible_distances(items, queries, own_entries), max(1, min(TOP, len(items) - 1)))


def _comparison(dataset: str, settings: Mapping[str, Any], found: Mapping[str, Retrieved], room: int) -> Comparison:
    most = max(float((one.images[name] - one.images[CLEAN]).abs().max()) for one in found.values() for name in ATTACKS)
    gain = 0.5 / most if most > 0 else 1.0
    radius = format_radius(settings["eps"], settings["norm"])
    attack = ", ".join(filter(None, (radius and f"ε = {radius}", settings["steps"] and f"{settings['steps']} steps")))
    made = Comparison(dataset, attack, gain, (), 0)
    first = next(iter(found.values()))
    for i, label in enumerate(first.queries.labels.tolist()):
        rankings = {name: _rankings(one, i, gain) for name, one in found.items()}
        more = replace(made, queries=(*made.queries, (first.target.pixels.table.classes[label], rankings)))
        if _size(more) > room:
            return replace(made, left_out=len(first.queries.ids) - i)
        made = more
    return made


def _rankings(found: Retrieved, i: int, gain: float) -> list[Ranking]:
    clean = found.images[CLEAN][i]
    return [
        Ranking(
            CLEAN if name == CLEAN else name.upper(),
            _address(image[i]),
            None if name == CLEAN else _address(0.5 + gain * (image[i] - clean)),
            _hits(found, i, found.rows[name][i]),
        )
        for name, image in found.images.items()
    ]


def _hits(found: Retrieved, i: int, rows: Tensor) -> tuple[Hit, ...]:
    gallery, pixels = found.target.system.gallery, found.target.pixels
    images, _ = pixels.read(gallery.ids[rows].cpu())
    labels, wanted = gallery.labels[rows].tolist(), int(found.queries.labels[i])
    return tuple(
        Hit(_address(image), pixels.table.classes[label], label == wanted)
        for image, label in zip(images, labels, strict=True)
    )


def _address(pixels: Tensor) -> str:
    """A small picture of an image (C, H, W) in [0, 1] as a ``data:`` address."""
    picture = to_image(pixels)
    if max(picture.size) > MAX_SIDE:
        picture = picture.resize((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    out = io.BytesIO()
    (picture if picture.mode == "L" else picture.quantize(COLOURS)).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _size(made: Comparison) -> int:
    rankings = [one for _, by_model in made.queries for known in by_model.values() for one in known]
    return sum(len(one.query) + len(one.change or "") + sum(len(hit.picture) for hit in one.hits) for one in rankings)
