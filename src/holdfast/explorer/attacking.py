"""One image attacked on every model of a scene, and what each of them finds before and after."""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks import RankingAttack, System
from holdfast.attacks.base import Attacked, Plan, attack_images
from holdfast.core.gallery import Queries
from holdfast.core.objectives import Objective
from holdfast.core.pgd import rounded
from holdfast.data.pixels import to_image
from holdfast.evaluation.runner import Target, generators_of, reading
from holdfast.evaluation.settings import AttackSettings
from holdfast.explorer.jobs import Tell
from holdfast.explorer.ranking import FIRST, Ranking, ranked
from holdfast.explorer.scene import Model, Query, Scene
from holdfast.util.errors import HoldfastError

VISIBLE = 64.0
"""How much a perturbation is amplified at most."""


class Watched:
    """An attack that tells the embedding ``(1, D)`` of its only image each time the descent looks at it."""

    def __init__(self, attack: RankingAttack, tell: Callable[[Tensor], None]) -> None:
        self.side, self.readings, self.start, self.choose = attack.side, attack.readings, attack.start, attack.choose
        self.attack, self.tell = attack, tell

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        plan = self.attack.plan(perturbed, system, chosen)
        return Plan(_Told(plan.objective, self.tell, plan.objective.floor), plan.outcome)


@dataclass(frozen=True, eq=False)
class _Told:
    objective: Objective
    tell: Callable[[Tensor], None]
    floor: float

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        values = self.objective(z, rows)
        self.tell(z[:, 0].detach())
        return values


@dataclass(frozen=True)
class Outcome:
    """report: plain data for the page. files: PNGs by name."""

    report: dict[str, Any]
    files: dict[str, bytes]


def clean(scene: Scene, query: Query) -> list[dict[str, Any]]:
    """What each model finds for a query as it is."""
    rankings = [ranked(model.target, query.seen_by(i), query.embeddings[i]) for i, model in enumerate(scene.models)]
    return [_shown(scene, model, one, one) for model, one in zip(scene.models, rankings, strict=True)]


def attack(scene: Scene, query: Query, resolved: AttackSettings, tell: Tell) -> Outcome:
    """Attack a query by the only attack of the settings, each model by itself in the white box.

    What the attack chooses is chosen once, from the first model's clean ranking, and all models have the same random
    numbers: they are pushed toward the same. What is shown and read is that of the images rounded to 8 bits.

    ``tell`` hears ``model`` (which one), ``step``, ``steps``, and ``traces``: for each model so far, of the first ten
    results how many are of the query's class, at each step. Raises HoldfastError where an attack is impossible.
    """
    name = resolved.attacks[0]
    kind, pgd = resolved.attack(name), resolved.pgd()
    _check(scene, query)
    chosen = kind.choose(query.seen_by(0), scene.system, generators_of(name, resolved.seed, [query.id]))
    traces: list[list[int]] = []
    outcomes: list[dict[str, Any]] = []
    files = {"clean": png(query.image)}
    for i, model in enumerate(scene.models):
        seen, target = query.seen_by(i), model.target
        traces.append([])

        def look(z: Tensor, i: int = i, target: Target = target, seen: Queries = seen) -> None:
            traces[i].append(sum(ranked(target, seen, z).found))
            step = min(len(traces[i]), resolved.steps)
            tell({"model": i, "step": step, "steps": resolved.steps, "traces": [list(one) for one in traces]})

        watched, generators = Watched(kind, look), generators_of(name, resolved.seed, [query.id])
        try:
            attacked = attack_images(
                watched, target.model, target.system, seen, query.image, chosen=chosen, pgd=pgd, generators=generators
            )
        except FloatingPointError as error:
            raise HoldfastError(
                f"{model.name} gives NaN or infinite embeddings on the way: no attack is possible"
            ) from error
        images = rounded(attacked.images, attacked.clean, pgd.ball)
        outcomes.append({**_outcome(scene, model, seen, attacked, images), "trace": traces[i]})
        files[f"{i}-adversarial"] = png(images)
        files[f"{i}-perturbation"] = png(amplified(images - attacked.clean, resolved.eps))
    report = {
        "attack": name,
        **budget(resolved),
        "label": query.label,
        "amplified": gain(resolved.eps),
        "targets": [scene.about(int(scene.system.gallery.ids[row])) for row in chosen[0]],
        "models": outcomes,
    }
    return Outcome(report, files)


def budget(resolved: AttackSettings) -> dict[str, float]:
    """What the page lets one choose; ``eps`` and ``step`` in units of 1/255."""
    return {"eps": 255 * resolved.eps, "step": 255 * resolved.step, "steps": resolved.steps, "seed": resolved.seed}


def _check(scene: Scene, query: Query) -> None:
    gallery = scene.system.gallery
    matching = (gallery.labels == query.label) & (gallery.ids != query.id)
    if not matching.any():
        name = scene.title(query.label)
        raise HoldfastError(f"the gallery holds no other image of class {name}: there is no right answer to lose")


def _outcome(scene: Scene, model: Model, seen: Queries, attacked: Attacked, images: Tensor) -> dict[str, Any]:
    """What a model makes of an attacked image (1, C, H, W), and how much of it was changed: the most and the mean in
    units of 1/255, and the share of values, in percent."""
    with torch.no_grad():
        z = model.target.model(images)
        read = attacked.outcome(z)
    before, after = (ranked(model.target, seen, one) for one in (seen.embeddings, z))
    values = {"before": reading(attacked.before, 0), "after": reading(read, 0)}
    levels = (255 * (images - attacked.clean)).round().abs()
    return {
        "before": _shown(scene, model, before, after),
        "after": _shown(scene, model, after, before),
        "readings": [
            {"name": name, **{when: one[name] if isfinite(one[name]) else None for when, one in values.items()}}
            for name in read
        ],
        "targets": [[int(ranking.places[row]) for ranking in (before, after)] for row in attacked.chosen[0]],
        "largest": float(levels.max()),
        "mean": round(float(levels.mean()), 2),
        "changed": round(100 * float((levels > 0).float().mean()), 1),
    }


def _shown(scene: Scene, model: Model, ranking: Ranking, other: Ranking) -> dict[str, Any]:
    """The first results, each with its place in another ranking."""
    ids = model.target.system.gallery.ids
    results = [
        {**scene.about(int(ids[row])), "match": bool(ranking.matching[row]), "other": int(other.places[row])}
        for row in ranking.order[:FIRST].tolist()
    ]
    return {"found": ranking.found, "list": results}


def gain(eps: float) -> float:
    """By how much a perturbation is amplified, so that one of size ``eps`` reaches from grey to black and white."""
    return VISIBLE if eps <= 0.5 / VISIBLE else round(0.5 / eps, 1)


def amplified(r: Tensor, eps: float) -> Tensor:
    """A perturbation around grey, (1, C, H, W) in [0, 1]."""
    return (0.5 + gain(eps) * r).clamp(0, 1)


def png(image: Tensor) -> bytes:
    """An image (1, C, H, W) in [0, 1] as a file."""
    file = BytesIO()
    to_image(image[0]).save(file, "PNG")
    return file.getvalue()
