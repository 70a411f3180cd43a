"""One image made a hub of the gallery: how many queries have it among their first results, before and after."""

from dataclasses import replace
from typing import Any

import torch

from holdfast.attacks import System
from holdfast.attacks.base import APPROACH, attack_images
from holdfast.attacks.hub import Hub, first_items
from holdfast.core.batching import WIDTH
from holdfast.core.gallery import Gallery, Queries
from holdfast.core.pgd import rounded
from holdfast.evaluation.runner import generators_of
from holdfast.evaluation.settings import AttackSettings
from holdfast.explorer.attacking.course import Note, Outcome, Part, Watched, change, on_each_model
from holdfast.explorer.attacking.pictures import amplified, gain, png
from holdfast.explorer.jobs import Tell
from holdfast.explorer.scene import Query, Scene
from holdfast.threats.hub import DEPTH, held_out, natural_hits, poisoned, seen
from holdfast.util.errors import HoldfastError

READ_ON = 1000
"""Queries that a hub is read on, at most."""
LEAST = DEPTH + 2
"""Items of a gallery: beside the first ten, the query's own and the hub."""
SHOWN = 10
"""Queries that are shown of those it comes first for."""


def attack_hub(scene: Scene, query: Query, resolved: AttackSettings, tell: Tell) -> Outcome:
    """Perturb an image into a hub of each model's gallery, alone in it; one that is not in the gallery is added.

    The curve shows for how many percent of the held-out queries it is among the first ten. Raises HoldfastError where
    there are too few queries or items.
    """
    if (items := len(scene.system.gallery.ids)) < LEAST:
        raise HoldfastError(f"a hub needs a gallery of at least {LEAST} images, not {items}")
    name = resolved.attacks[0]
    kind, pgd = resolved.attack(name), resolved.pgd()
    assert isinstance(kind, Hub)

    def carry_out(i: int, note: Note) -> Part:
        model, image = scene.models[i].target.model, query.seen_by(i)
        system = holding(replace(scene.models[i].target.system, width=WIDTH), image)
        chosen, rows = kind.choose(image, system, []), held_out(system, kind, image.ids)
        outcome = kind.plan(image, system, chosen).outcome
        attacked = attack_images(
            Watched(kind, lambda z: note(float(outcome(z)[f"hit@{DEPTH}"]))),
            model,
            system,
            image,
            query.image,
            chosen=chosen,
            pgd=pgd,
            generators=generators_of(name, resolved.seed, [query.id]),
        )
        images = rounded(attacked.images, attacked.clean, pgd.ball)
        with torch.no_grad():
            z = model(images)
        first = [
            first_items(one, rows, DEPTH)[1] for one in (system, poisoned(system, image.ids, z.to(image.embeddings)))
        ]
        before, after = (seen(lists, image.ids, system, rows) for lists in first)
        won = system.queries.ids[rows[first[1][:, 0] == query.id]]
        report = {
            "readings": [
                {"name": key, "before": value, "after": _values(after)[key]} for key, value in _values(before).items()
            ],
            "natural": {**natural_hits(first[0]), "z": before["natural_z"]},
            "made_on": chosen.shape[1],
            "read_on": len(rows),
            "won": [scene.about(row) for row in won[:SHOWN].tolist()],
            **change(attacked.clean, images),
        }
        files = {"adversarial": images, "perturbation": amplified(images - attacked.clean, resolved.eps)}
        return report, {key: png(content) for key, content in files.items()}

    outcome = on_each_model(scene, query, resolved, tell, steps=APPROACH + resolved.steps, carry_out=carry_out)
    return Outcome({**outcome.report, "targets": [], "amplified": gain(resolved.eps)}, outcome.files)


def holding(system: System, image: Queries) -> System:
    """The system with one more image in its gallery, unless it is there."""
    gallery = system.gallery
    if bool((gallery.ids == image.ids).any()):
        return system
    names = ("embeddings", "labels", "ids")
    z, labels, ids = (torch.cat([getattr(one, name) for one in (gallery, image)]) for name in names)
    return replace(system, gallery=Gallery(z, labels, ids))


def _values(found: dict[str, Any]) -> dict[str, float]:
    return {**found["hits"], "z": found["z"][0], "R@1": found["recall"]}
