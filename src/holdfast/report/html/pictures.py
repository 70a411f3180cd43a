"""Ranked lists, as they are and under attack: what a few queries find, model beside model.

The only part of the page that reads models and images.
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

from holdfast.attacks.base import own_entries, shown
from holdfast.core.gallery import Queries, nearest
from holdfast.evaluation.evaluate import campaigns_of, prepared
from holdfast.evaluation.fingerprint import of_model
from holdfast.evaluation.result import Result
from holdfast.evaluation.runner import Target, attack_batch
from holdfast.evaluation.settings import resolve_budget
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.report.html.runs import Source
from holdfast.report.tables import radius
from holdfast.util.errors import HoldfastError

CLEAN = "as it is"
ATTACKS = {"ltm": "LTM", "es": "ES"}
"""The attacks that are shown, and how they are called."""
FOUND = 5
"""Results shown of each query."""
SIDE = 56
"""Of a picture, in pixels, at most."""
COLOURS = 64
ROOM = 3_000_000
"""Characters of all pictures together; queries beyond are left out."""


@dataclass(frozen=True)
class Hit:
    """A gallery image that was found: whether it is of the query's class."""

    picture: str
    name: str
    right: bool


@dataclass(frozen=True)
class Ranking:
    """What a query finds. change: the perturbation, amplified; None where there is none."""

    title: str
    query: str
    change: str | None
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Album:
    """The same queries asked of several models, by name.

    gain: how far perturbations are amplified. queries: the class of each, and its rankings by model, the clean one
        first. left_out: how many queries there was no room for.
    """

    dataset: str
    attack: str
    gain: float
    queries: tuple[tuple[str, dict[str, list[Ranking]]], ...]
    left_out: int


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model makes of the queries, clean and under each attack: images (Q, C, H, W), rows found (Q, k)."""

    target: Target
    queries: Queries
    images: dict[str, Tensor]
    found: dict[str, Tensor]


def albums(
    sources: Sequence[tuple[str, Source]], count: int, root: str | Path | None = None
) -> tuple[list[Album], list[str]]:
    """An album for each data set, and a sentence for each named model that has no part in one or has changed since.

    All models of a data set meet the same ``count`` queries, drawn by seed 0, and the attacks :data:`ATTACKS` of
    protocol strict, with the radius, step, steps and norm that most of their evaluations had.
    """
    made: list[Album] = []
    remarks: list[str] = []
    by_data: dict[tuple[str, str], list[tuple[str, Source]]] = {}
    for name, source in sources:
        data = source.results[0].content["data"]
        by_data.setdefault((data["name"], str(data.get("hash"))), []).append((name, source))
    room = ROOM
    for (dataset, _), known in by_data.items():
        chosen = usual([result for _, source in known for result in source.results])
        answers: dict[str, Answers] = {}
        for name, source in known:
            try:
                answers[name] = ask(source, count, root, chosen)
            except (HoldfastError, OSError, RuntimeError, TypeError) as error:
                remarks.append(f"{name}: no ranked lists; {' '.join(str(error).split())}")
                continue
            exact = [result for result in source.results if "bfloat16" not in result.protocol]
            hashes = {result.content["model"].get("hash") for result in exact} - {None}
            if hashes and of_model(answers[name].target) not in hashes:
                remarks.append(f"{name}: its weights or its data are no longer those that were evaluated")
        if answers:
            made.append(_album(dataset, chosen, answers, room))
            room -= _size(made[-1])
    return made, remarks


def usual(results: Sequence[Result]) -> dict[str, Any]:
    """The radius, step, steps and norm that most evaluations had; of several the largest radius."""
    names = ("eps", "step", "steps", "norm")
    counts = Counter(tuple(result.content["settings"].get(name) for name in names) for result in results)
    most = max(counts, key=lambda known: (counts[known], known[0] or 0.0, known[2] or 0))
    return dict(zip(names, most, strict=True))


def ask(source: Source, count: int, root: str | Path | None, settings: Mapping[str, Any]) -> Answers:
    """What a run's model finds. Raises HoldfastError where the model or its data cannot be read."""
    model = open_model(source.folder, best=source.best)
    pixels = load_test_set(model, root=root)
    budget = resolve_budget(pixels.table.family, attacks=tuple(ATTACKS), max_queries=count, **settings)
    with prepared(model.embed, pixels, budget) as target:
        images: dict[str, Tensor] = {}
        found: dict[str, Tensor] = {}
        for campaign in campaigns_of(target, budget, count):
            rows = campaign.images
            queries = target.system.queries.take(rows)
            attacked = attack_batch(campaign.attack, target, rows, campaign.pgd, draws=campaign.draws(target, rows))
            with torch.no_grad():
                moved = replace(queries, embeddings=target.subject(attacked.images))
            images |= {CLEAN: attacked.clean, campaign.name: attacked.images}
            found |= {CLEAN: _found(target, queries), campaign.name: _found(target, moved)}
        return Answers(target, queries, images, found)


def _found(target: Target, queries: Queries) -> Tensor:
    items = target.system.items
    return nearest(shown(items, queries, own_entries), max(1, min(FOUND, len(items) - 1)))


def _album(dataset: str, settings: Mapping[str, Any], answers: Mapping[str, Answers], room: int) -> Album:
    most = max(
        float((one.images[name] - one.images[CLEAN]).abs().max()) for one in answers.values() for name in ATTACKS
    )
    gain = 0.5 / most if most > 0 else 1.0
    reach = radius(settings["eps"], settings["norm"])
    attack = ", ".join(filter(None, (reach and f"ε = {reach}", settings["steps"] and f"{settings['steps']} steps")))
    album = Album(dataset, attack, gain, (), 0)
    first = next(iter(answers.values()))
    for i, label in enumerate(first.queries.labels.tolist()):
        rankings = {name: _rankings(one, i, gain) for name, one in answers.items()}
        more = replace(album, queries=(*album.queries, (first.target.pixels.table.classes[label], rankings)))
        if _size(more) > room:
            return replace(album, left_out=len(first.queries.ids) - i)
        album = more
    return album


def _rankings(answers: Answers, i: int, gain: float) -> list[Ranking]:
    clean = answers.images[CLEAN][i]
    return [
        Ranking(
            ATTACKS.get(name, name),
            _picture(image[i]),
            None if name == CLEAN else _picture(0.5 + gain * (image[i] - clean)),
            _hits(answers, i, answers.found[name][i]),
        )
        for name, image in answers.images.items()
    ]


def _hits(answers: Answers, i: int, rows: Tensor) -> tuple[Hit, ...]:
    gallery, pixels = answers.target.system.gallery, answers.target.pixels
    images, _ = pixels.read(gallery.ids[rows].cpu())
    labels, wanted = gallery.labels[rows].tolist(), int(answers.queries.labels[i])
    return tuple(
        Hit(_picture(image), pixels.table.classes[label], label == wanted)
        for image, label in zip(images, labels, strict=True)
    )


def _picture(image: Tensor) -> str:
    """A small picture (C, H, W) in [0, 1] as the address of a PNG: its content."""
    pixels = (image.clamp(0, 1).cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    drawn = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if max(drawn.size) > SIDE:
        drawn = drawn.resize((SIDE, SIDE), Image.Resampling.BOX)
    out = io.BytesIO()
    (drawn if drawn.mode == "L" else drawn.quantize(COLOURS)).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _size(album: Album) -> int:
    rankings = [one for _, by_model in album.queries for known in by_model.values() for one in known]
    return sum(len(one.query) + len(one.change or "") + sum(len(hit.picture) for hit in one.hits) for one in rankings)
