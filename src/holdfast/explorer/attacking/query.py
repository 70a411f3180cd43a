"""One query attacked, and what each model finds for it before and after."""

from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks import RankingAttack
from holdfast.attacks.base import Attacked, attack_images
from holdfast.attacks.shared import Patch, mean_margin
from holdfast.core.gallery import Queries
from holdfast.core.pgd import rounded
from holdfast.core.steps import LInf
from holdfast.evaluation.runner import generators_of, reading
from holdfast.evaluation.settings import AttackSettings
from holdfast.explorer.attacking.course import Look, Note, Outcome, Part, Told, Watched, change, on_each_model
from holdfast.explorer.attacking.pictures import amplified, gain, png
from holdfast.explorer.attacking.ranking import FIRST, Ranking, by_distance, ranked
from holdfast.explorer.jobs import Tell
from holdfast.explorer.scene import Model, Query, Scene
from holdfast.threats.shared import ROUNDS, blank, in_eight_bits, laid, reach, rounds
from holdfast.util.errors import HoldfastError


def clean(scene: Scene, query: Query) -> list[dict[str, Any]]:
    """What each model finds for a query as it is."""
    found = []
    for i, model in enumerate(scene.models):
        ranking, exact = _both(model, query.seen_by(i), query.embeddings[i])
        found.append(_shown(scene, model, ranking, ranking, exact))
    return found


Attempt = Callable[[Model, Queries, Look], tuple[Attacked, Tensor, dict[str, bytes]]]
"""Attacks one model: what became of the image, it in 8 bits (1, C, H, W), and further PNGs by name."""


def attack_query(scene: Scene, query: Query, resolved: AttackSettings, tell: Tell) -> Outcome:
    """Attack a query by the only attack of the settings, each model by itself in the white box.

    What the attack chooses is chosen once, from the first model's clean ranking, and all models have the same random
    numbers: they are pushed toward the same. What is shown and read is that of the images rounded to 8 bits. The curve
    shows of the first ten results how many are of the query's class. Raises HoldfastError where an attack is
    impossible.
    """
    name = resolved.attacks[0]
    kind, pgd = resolved.attack(name), resolved.pgd()
    chosen = kind.choose(query.seen_by(0), scene.system, generators_of(name, resolved.seed, [query.id]))

    def attempt(model: Model, seen: Queries, look: Look) -> tuple[Attacked, Tensor, dict[str, bytes]]:
        attacked = attack_images(
            Watched(kind, look),
            model.target.model,
            model.target.system,
            seen,
            query.image,
            chosen=chosen,
            pgd=pgd,
            generators=generators_of(name, resolved.seed, [query.id]),
        )
        images = rounded(attacked.images, attacked.clean, pgd.ball)
        return attacked, images, {"perturbation": png(amplified(images - attacked.clean, resolved.eps))}

    outcome = _compared(scene, query, resolved, tell, kind=kind, steps=resolved.steps, attempt=attempt)
    targets = [scene.about(int(scene.system.gallery.ids[row])) for row in chosen[0]]
    return Outcome({**outcome.report, "targets": targets, "amplified": gain(resolved.eps)}, outcome.files)


def attack_patch(scene: Scene, query: Query, resolved: AttackSettings, tell: Tell) -> Outcome:
    """Paint a patch for this query alone, as :func:`attack_query` attacks it.

    It is made at places drawn anew at each step, and laid on at one that the seed and the query decide.
    """
    kind = resolved.attack(resolved.attacks[0])
    assert isinstance(kind, Patch)

    def attempt(model: Model, seen: Queries, look: Look) -> tuple[Attacked, Tensor, dict[str, bytes]]:
        target = model.target
        objective, start = Told(mean_margin(seen, target.system), look), blank(kind, target.pixels).to(query.image)
        *_, canvas = rounds(kind, target, query.image, objective, resolved, canvas=start)
        patch = in_eight_bits(canvas, reach(kind, resolved))
        attacked = laid(kind, patch, target, seen, query.image, ball=LInf(resolved.eps), seed=resolved.seed)
        return attacked, attacked.images, {"patch": png(patch[None])}

    outcome = _compared(scene, query, resolved, tell, kind=kind, steps=ROUNDS * resolved.steps, attempt=attempt)
    return Outcome({**outcome.report, "targets": []}, outcome.files)


def _compared(
    scene: Scene,
    query: Query,
    resolved: AttackSettings,
    tell: Tell,
    *,
    kind: RankingAttack,
    steps: int,
    attempt: Attempt,
) -> Outcome:
    """What each model finds before and after an attempt on it."""
    gallery = scene.system.gallery
    if not ((gallery.labels == query.label) & (gallery.ids != query.id)).any():
        name = scene.title(query.label)
        raise HoldfastError(f"the gallery holds no other image of class {name}: there is no right answer to lose")

    def carry_out(i: int, note: Note) -> Part:
        model, seen = scene.models[i], query.seen_by(i)
        attacked, images, files = attempt(model, seen, lambda z: note(sum(ranked(model, seen, z).found)))
        report = _outcome(scene, model, seen, kind=kind, attacked=attacked, images=images)
        return report, {"adversarial": png(images), **files}

    return on_each_model(scene, query, resolved, tell, steps=steps, carry_out=carry_out)


def _outcome(
    scene: Scene, model: Model, seen: Queries, *, kind: RankingAttack, attacked: Attacked, images: Tensor
) -> dict[str, Any]:
    """What a model makes of an attacked image (1, C, H, W)."""
    with torch.no_grad():
        z = model.target.model(images)
        read = attacked.outcome(z)
    (before, exact), (after, later) = (_both(model, seen, one) for one in (seen.embeddings, z))
    values = {"before": reading(attacked.before, 0), "after": reading(read, 0)}
    return {
        "before": _shown(scene, model, before, after, exact),
        "after": _shown(scene, model, after, before, later),
        "readings": [
            {"name": name, **{when: one[name] if isfinite(one[name]) else None for when, one in values.items()}}
            for name in kind.readings
        ],
        "targets": _places(attacked.chosen, before, after),
        "exact_targets": None if exact is None or later is None else _places(attacked.chosen, exact, later),
        **change(attacked.clean, images),
    }


def _both(model: Model, seen: Queries, z: Tensor) -> tuple[Ranking, Ranking | None]:
    """What a model finds, and beside an index what it would find if every vector were compared."""
    return ranked(model, seen, z), None if model.index is None else by_distance(model.exact, seen, z)


def _places(rows: Tensor, *rankings: Ranking) -> list[list[int]]:
    """The place of each of the ``rows`` (1, k) in each ranking."""
    return [[int(ranking.places[row]) for ranking in rankings] for row in rows[0]]


def _shown(scene: Scene, model: Model, ranking: Ranking, other: Ranking, exact: Ranking | None) -> dict[str, Any]:
    """The first results, each with its place in another ranking and, beside an index, in the exact one."""
    ids = model.target.system.gallery.ids
    results = [
        {
            **scene.about(int(ids[row])),
            "match": bool(ranking.matching[row]),
            "other": int(other.places[row]),
            "exact": None if exact is None else int(exact.places[row]),
        }
        for row in ranking.order[:FIRST].tolist()
    ]
    return {"found": ranking.found, "list": results, "exact": None if exact is None else exact.found}
