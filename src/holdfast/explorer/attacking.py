"""One image attacked on every model of a scene, and what each of them finds before and after."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks import RankingAttack, System
from holdfast.attacks.base import Attacked, ImageGenerators, Plan, attack_images
from holdfast.core.gallery import Queries
from holdfast.core.objectives import Objective
from holdfast.data.pixels import to_image
from holdfast.evaluation.runner import generators_of, reading
from holdfast.evaluation.saving import rounded
from holdfast.evaluation.settings import AttackSettings
from holdfast.explorer.jobs import Tell
from holdfast.explorer.ranking import FIRST, Ranking, ranked
from holdfast.explorer.scene import Model, Query, Scene
from holdfast.util.errors import HoldfastError

VISIBLE = 64.0
"""How much a perturbation is amplified at most."""


@dataclass(frozen=True, eq=False)
class Watched:
    """An attack that tells the embedding ``(1, D)`` of its only image each time the descent looks at it."""

    attack: RankingAttack
    tell: Callable[[Tensor], None]

    @property
    def side(self) -> str:
        return self.attack.side

    @property
    def readings(self) -> tuple[str, ...]:
        return self.attack.readings

    @property
    def start(self) -> float:
        return self.attack.start

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        return self.attack.choose(perturbed, system, generators)

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        plan = self.attack.plan(perturbed, system, chosen)
        return Plan(_Told(plan.objective, self.tell), plan.outcome)


@dataclass(frozen=True, eq=False)
class _Told:
    objective: Objective
    tell: Callable[[Tensor], None]

    @property
    def floor(self) -> float:
        return self.objective.floor

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
    found = []
    for i, model in enumerate(scene.models):
        seen = query.seen_by(i)
        ranking = ranked(model.target, seen, seen.embeddings)
        found.append({"found": ranking.found, "list": _listed(scene, model, ranking, ranking)})
    return found


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
    chosen = kind.choose(
        query.seen_by(0), scene.models[0].target.system, generators_of(name, resolved.seed, [query.id])
    )
    traces: list[list[int]] = []
    outcomes: list[dict[str, Any]] = []
    files = {"clean": png(query.image)}
    for i, model in enumerate(scene.models):
        seen, trace = query.seen_by(i), list[int]()
        traces.append(trace)

        def look(z: Tensor, i: int = i, model: Model = model, seen: Queries = seen, trace: list[int] = trace) -> None:
            trace.append(sum(ranked(model.target, seen, z).found))
            step = min(len(trace), resolved.steps)
            tell({"model": i, "step": step, "steps": resolved.steps, "traces": [list(one) for one in traces]})

        watched, generators = Watched(kind, look), generators_of(name, resolved.seed, [query.id])
        try:
            target = model.target
            attacked = attack_images(
                watched, target.model, target.system, seen, query.image, chosen=chosen, pgd=pgd, generators=generators
            )
        except FloatingPointError as error:
            raise HoldfastError(
                f"{model.name} gives NaN or infinite embeddings on the way: no attack is possible"
            ) from error
        images = rounded(attacked.images, attacked.clean, pgd.ball)
        with torch.no_grad():
            z = model.target.model(images)
        before, after = (ranked(model.target, seen, one) for one in (seen.embeddings, z))
        outcomes.append(
            _outcome(scene, model, attacked, z, before=before, after=after) | _size(images - attacked.clean)
        )
        outcomes[-1]["trace"] = trace
        files[f"{i}-adversarial"] = png(images)
        files[f"{i}-perturbation"] = png(amplified(images - attacked.clean, resolved.eps))
    report = {
        "attack": name,
        "eps": 255 * resolved.eps,
        "step": 255 * resolved.step,
        "steps": resolved.steps,
        "seed": resolved.seed,
        "label": query.label,
        "amplified": gain(resolved.eps),
        "targets": [_target(scene, int(row)) for row in chosen[0]],
        "models": outcomes,
    }
    return Outcome(report, files)


def _check(scene: Scene, query: Query) -> None:
    gallery = scene.models[0].target.system.gallery
    matching = (gallery.labels == query.label) & (gallery.ids != query.id)
    if not matching.any():
        name = scene.title(query.label)
        raise HoldfastError(f"the gallery holds no other image of class {name}: there is no right answer to lose")


def _outcome(
    scene: Scene, model: Model, attacked: Attacked, z: Tensor, *, before: Ranking, after: Ranking
) -> dict[str, Any]:
    with torch.no_grad():
        read = attacked.outcome(z)
    values = {"before": reading(attacked.before, 0), "after": reading(read, 0)}
    return {
        "before": {"found": before.found, "list": _listed(scene, model, before, after)},
        "after": {"found": after.found, "list": _listed(scene, model, after, before)},
        "readings": [{"name": name, **{when: _finite(value[name]) for when, value in values.items()}} for name in read],
        "targets": [[int(ranking.places[row]) for ranking in (before, after)] for row in attacked.chosen[0]],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _listed(scene: Scene, model: Model, ranking: Ranking, other: Ranking) -> list[dict[str, Any]]:
    """The first results, each with its place in another ranking."""
    ids = model.target.system.gallery.ids
    return [
        {
            "id": int(ids[row]),
            "name": scene.name_of(int(ids[row])),
            "class": scene.class_of(int(ids[row])),
            "match": bool(ranking.matching[row]),
            "other": int(other.places[row]),
        }
        for row in ranking.order[:FIRST].tolist()
    ]


def _target(scene: Scene, row: int) -> dict[str, Any]:
    identity = int(scene.models[0].target.system.gallery.ids[row])
    return {"id": identity, "name": scene.name_of(identity), "class": scene.class_of(identity)}


def _size(r: Tensor) -> dict[str, Any]:
    """How much an image was changed: the most and the mean in units of 1/255, and the share of values, in percent."""
    levels = (255 * r).round().abs()
    return {
        "largest": float(levels.max()),
        "mean": round(float(levels.mean()), 2),
        "changed": round(100 * float((levels > 0).float().mean()), 1),
    }


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
