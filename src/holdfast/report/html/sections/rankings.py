"""Ranked lists of a few queries, clean and under attack, model beside model.

The only section that reads models and images.
"""

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from holdfast.attacks.base import own_entries, visible_distances
from holdfast.core.gallery import Queries, nearest
from holdfast.data.pixels import to_image
from holdfast.evaluation.evaluate import prepared
from holdfast.evaluation.fingerprint import model_fingerprint
from holdfast.evaluation.result import Result
from holdfast.evaluation.runner import Target, attack_batch, runners_of
from holdfast.evaluation.settings import resolve_settings
from holdfast.evaluation.words import ATTACK_WORDS
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.report.html.checkpoints import Checkpoint
from holdfast.report.tables import Setting, format_radius
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


class Hit(NamedTuple):
    """A gallery image that was found. right: it is of the query's class."""

    picture: str
    name: str
    right: bool


class Ranking(NamedTuple):
    """The ranked list of a query. change: the perturbation, amplified; empty where there is none."""

    title: str
    query: str
    change: str
    hits: list[Hit]

    @property
    def size(self) -> int:
        """The characters of its pictures."""
        return len(self.query) + len(self.change) + sum(len(hit.picture) for hit in self.hits)


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What a model retrieves, clean and under each attack: images (Q, C, H, W), gallery rows (Q, k)."""

    target: Target
    queries: Queries
    images: dict[str, Tensor]
    rows: dict[str, Tensor]


def fill(checkpoints: Sequence[Checkpoint], count: int, root: str | Path | None) -> dict[str, Any]:
    """A comparison for each data set, and a sentence for each model that has no part in it or has changed since.

    All models of a data set meet the same ``count`` queries, drawn by seed 0, and the :data:`ATTACKS` of protocol
    strict, with the radius, step, steps and norm that most of their evaluations had. With a ``count`` of 0 there is
    nothing, and no model is read.
    """
    if not count:
        return {}
    made: list[dict[str, Any]] = []
    remarks = [] if checkpoints else ["No result is in a run folder, so there is no model to show ranked lists of."]
    failed: dict[str, list[str]] = {}
    by_data: dict[tuple[str, str], list[Checkpoint]] = defaultdict(list)
    for one in checkpoints:
        data = one.results[0].content["data"]
        by_data[data["name"], str(data.get("hash"))].append(one)
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
            comparison, room = _comparison(found, room)
            radius, steps = format_radius(settings["eps"], settings["norm"]), str(settings["steps"] or "")
            made.append({"dataset": dataset, "attack": Setting("", dataset, radius, steps).attack, **comparison})
    remarks = [f"{', '.join(names)}: no ranked lists; {why}" for why, names in failed.items()] + remarks
    return {"comparisons": made, "remarks": remarks, "aims": {name.upper(): ATTACK_WORDS[name].aim for name in ATTACKS}}


def usual(results: Sequence[Result]) -> dict[str, Any]:
    """The radius, step, steps and norm that most evaluations had; of several the largest radius."""
    names = ("eps", "step", "steps", "norm")
    counts = Counter(tuple(result.content["settings"].get(name) for name in names) for result in results)
    most = max(counts, key=lambda known: (counts[known], known[0] or 0.0, known[2] or 0))
    return dict(zip(names, most, strict=True))


def retrieve(checkpoint: Checkpoint, count: int, root: str | Path | None, settings: Mapping[str, Any]) -> Retrieved:
    """What a run's model retrieves. Raises HoldfastError where the model or its data cannot be read."""
    model = open_model(checkpoint.run.folder, best=checkpoint.best)
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


def _comparison(found: Mapping[str, Retrieved], room: int) -> tuple[dict[str, Any], int]:
    """The factor by which perturbations are amplified, the class of each query with its rankings by model, how many
    queries there was no room for; and what room is left."""
    most = max(float((one.images[name] - one.images[CLEAN]).abs().max()) for one in found.values() for name in ATTACKS)
    gain = 0.5 / most if most > 0 else 1.0
    first = next(iter(found.values()))
    labels, queries = first.queries.labels.tolist(), list[tuple[str, dict[str, list[Ranking]]]]()
    for i, label in enumerate(labels):
        rankings = {name: _rankings(one, i, gain) for name, one in found.items()}
        size = sum(ranking.size for known in rankings.values() for ranking in known)
        if size > room:
            break
        room -= size
        queries.append((first.target.pixels.table.classes[label], rankings))
    return {"gain": gain, "queries": queries, "left_out": len(labels) - len(queries)}, room


def _rankings(found: Retrieved, i: int, gain: float) -> list[Ranking]:
    """What a model retrieves for a query, clean and then under each attack."""
    gallery, pixels, wanted = found.target.system.gallery, found.target.pixels, int(found.queries.labels[i])
    clean, rankings = found.images[CLEAN][i], []
    for name, image in found.images.items():
        rows = found.rows[name][i]
        hits = [
            Hit(_address(picture), pixels.table.classes[label], label == wanted)
            for picture, label in zip(
                pixels.read(gallery.ids[rows].cpu())[0], gallery.labels[rows].tolist(), strict=True
            )
        ]
        title, change = (CLEAN, "") if name == CLEAN else (name.upper(), _address(0.5 + gain * (image[i] - clean)))
        rankings.append(Ranking(title, _address(image[i]), change, hits))
    return rankings


def _address(pixels: Tensor) -> str:
    """A small picture of an image (C, H, W) in [0, 1] as a ``data:`` address."""
    picture = to_image(pixels)
    if max(picture.size) > MAX_SIDE:
        picture = picture.resize((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    out = io.BytesIO()
    (picture if picture.mode == "L" else picture.quantize(COLOURS)).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
