"""Two images and a verifier: is this the same class, before the first of them is attacked and after?"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.attacks.base import ImageGenerators, Plan, attack_images
from holdfast.attacks.verification import Dodging, Impersonation
from holdfast.core.distance import pairs
from holdfast.core.gallery import Queries
from holdfast.core.pgd import rounded
from holdfast.evaluation.runner import generators_of
from holdfast.evaluation.settings import AttackSettings
from holdfast.explorer.attacking.course import Note, Outcome, Part, Watched, change, on_each_model
from holdfast.explorer.attacking.hub import holding
from holdfast.explorer.attacking.pictures import amplified, gain, png
from holdfast.explorer.jobs import Tell
from holdfast.explorer.scene import Query, Scene
from holdfast.threats import FAR
from holdfast.threats.pairs import accepted_at, least_rate, require_rate, threshold_at
from holdfast.threats.verification import clean_distances
from holdfast.util.errors import HoldfastError


@dataclass(frozen=True)
class Pair:
    """Dodging, or impersonation, with a template of one's own choice. template: None: the attack chooses it."""

    name: str
    attack: Dodging | Impersonation
    template: Query | None = None
    side: ClassVar[str] = "query"

    @property
    def genuine(self) -> bool:
        """Whether it is of two images of one class."""
        return isinstance(self.attack, Dodging)

    @property
    def readings(self) -> tuple[str, ...]:
        return self.attack.readings

    @property
    def start(self) -> float:
        return self.attack.start

    def choose(self, perturbed: Queries, system: System, generators: ImageGenerators) -> Tensor:
        if self.template is None:
            return self.attack.choose(perturbed, system, generators)
        return (system.gallery.ids == self.template.id).nonzero()

    def plan(self, perturbed: Queries, system: System, chosen: Tensor) -> Plan:
        return self.attack.plan(perturbed, system, chosen)

    def check(self, scene: Scene, query: Query) -> None:
        """Raise HoldfastError for a query that it cannot be carried out on."""
        gallery, other = scene.system.gallery, self.template
        if other is None:
            if self.genuine and not ((gallery.labels == query.label) & (gallery.ids != query.id)).any():
                raise HoldfastError(f"the gallery holds no other image of class {scene.title(query.label)} to dodge")
        elif other.id == query.id:
            raise HoldfastError("an image is not compared with itself: choose another one to compare with")
        elif (other.label == query.label) != self.genuine:
            one, two = scene.title(query.label), scene.title(other.label)
            raise HoldfastError(
                f"impersonation is of two classes, and both images are of {one}: take dodging"
                if other.label == query.label
                else f"dodging is of two images of one class, and these are of {one} and {two}: take impersonation"
            )


def attack_pair(scene: Scene, query: Query, resolved: AttackSettings, tell: Tell) -> Outcome:
    """Attack a query as the probe that each model compares with a template, which stays as it is.

    The threshold is that of ``verify``: at :data:`.FAR`, or at the least rate that the gallery can show. The curve
    shows the distance. Raises HoldfastError where no rate can be shown.
    """
    kind, pgd = resolved.attack(resolved.attacks[0]), resolved.pgd()
    assert isinstance(kind, Pair)
    kind.check(scene, query)

    def randoms() -> list[torch.Generator]:
        return generators_of(kind.attack.name, resolved.seed, [query.id])

    systems = [model.target.system for model in scene.models]
    if (other := kind.template) is not None:
        systems = [holding(system, other.seen_by(i)) for i, system in enumerate(systems)]
    chosen = kind.choose(query.seen_by(0), systems[0], randoms())
    row = int(systems[0].gallery.ids[chosen])
    picture = scene.read(row) if other is None else other.image

    def carry_out(i: int, note: Note) -> Part:
        model, system, seen = scene.models[i].target.model, systems[i], query.seen_by(i)
        template = system.gallery.embeddings[chosen[0]]
        verifier = verifier_of(scene.models[i].target.system, resolved.seed)
        attacked = attack_images(
            Watched(kind, lambda z: note(float(pairs(z, template)))),
            model,
            system,
            seen,
            query.image,
            chosen=chosen,
            pgd=pgd,
            generators=randoms(),
        )
        images = rounded(attacked.images, attacked.clean, pgd.ball)
        with torch.no_grad():
            reached = [pairs(z, template) for z in (seen.embeddings, model(images))]
        accepted = [100.0 * bool(accepted_at(verifier["threshold"], one)) for one in reached]
        report = {
            "readings": [
                {"name": "distance", "before": float(reached[0]), "after": float(reached[1])},
                {"name": "accepted", "before": accepted[0], "after": accepted[1]},
            ],
            "verifier": verifier,
            **change(attacked.clean, images),
        }
        files = {
            "adversarial": images,
            "perturbation": amplified(images - attacked.clean, resolved.eps),
            "template": picture,
        }
        return report, {key: png(content) for key, content in files.items()}

    outcome = on_each_model(scene, query, resolved, tell, steps=resolved.steps, carry_out=carry_out)
    return Outcome(
        {
            **outcome.report,
            "targets": [],
            "amplified": gain(resolved.eps),
            "genuine": kind.genuine,
            "template": scene.about(row) if row < len(scene.table) else {"name": "uploaded", "class": ""},
        },
        outcome.files,
    )


def verifier_of(system: System, seed: int) -> dict[str, Any]:
    """The ``threshold`` of a verifier, the rate ``far`` it is for, the ``least`` that can be shown, and the numbers of
    ``genuine`` and ``impostors`` pairs behind it. Raises HoldfastError where no rate can be shown."""
    genuine, impostors = clean_distances(system, seed)
    least = least_rate(max(1, len(impostors)))
    far = max(FAR, least) if least < 1 else FAR
    require_rate(far, len(impostors), len(genuine))
    return {
        "threshold": threshold_at(far, impostors),
        "far": far,
        "least": least,
        "genuine": len(genuine),
        "impostors": len(impostors),
    }
