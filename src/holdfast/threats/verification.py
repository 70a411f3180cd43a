"""Verification under attack: is this probe the person of that template? Dodged, impersonated, and by how little."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from pydantic import StrictStr
from torch import Tensor
from typing_extensions import TypedDict

from holdfast.attacks import System
from holdfast.attacks.base import Attacked
from holdfast.attacks.verification import Dodging, Impersonation, NearestImpersonation
from holdfast.data import Pixels
from holdfast.evaluation.evaluate import Data, finished
from holdfast.evaluation.records import Records
from holdfast.evaluation.result import Result
from holdfast.evaluation.robust.minimal import bisect, summary
from holdfast.evaluation.runner import Runner, Target, attack_batch, generators_of, narrowed, runners_of
from holdfast.evaluation.scores import share
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.models.adapters.base import OpenedModel
from holdfast.threats import FAR
from holdfast.threats.base import Examined, Model, Share, examine
from holdfast.threats.pairs import (
    Faces,
    accepted_at,
    count_pairs,
    distances,
    drawn_probes,
    equal_error_rate,
    require_rate,
    threshold_at,
)
from holdfast.util.errors import HoldfastError
from holdfast.util.lock import working_in
from holdfast.util.progress import Progress
from holdfast.util.validate import Measured, Positive, Whole, check, fit

THREAT = "verification"
"""The protocol of these results, and the key of what they hold."""
SMALLEST = "minimal."
"""What the records of the search for small perturbations are called begins with it."""
ATTACKS = (Dodging(), NearestImpersonation(), Impersonation())
WORDS = {
    "dodging": "dodging: away from a template of the same class",
    "impersonation-nearest": "impersonation: onto the nearest template of another class",
    "impersonation-random": "impersonation: onto a random template of another class",
}


class _Smallest(TypedDict):
    queries: Whole
    beyond: Whole
    quartiles: list[Measured]
    curve: list[list[Measured]]


class _Attack(TypedDict):
    before: Share
    after: Share
    EER: Measured
    smallest: _Smallest


class Verification(TypedDict):
    """What a result of ``holdfast verify`` holds under :data:`THREAT`; rates are in percent.

    ``before`` and ``after`` are the shares of attacked pairs that are accepted: TAR under dodging, FAR under
    impersonation.
    """

    far: Measured
    threshold: Measured
    genuine: Whole
    impostors: Whole
    TAR: Share
    EER: Measured
    attacks: dict[StrictStr, _Attack]


def verify(
    model: Model,
    data: Data | None = None,
    *,
    far: float = FAR,
    folder: str | Path | None = None,
    batch: int = 128,
    device: torch.device | str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Result:
    """Attack a model as a verifier: a probe is accepted as a template's class if it is nearer than a threshold.

    Args:
        model: what :func:`.open_model` takes.
        data: a test set, as for :func:`.evaluate`: queries are probes, gallery images templates.
        far: the false accept rate among clean impostor pairs that the threshold is for, in (0, 1); at least 10 of them.
        folder: what is found is kept in ``folder/verification-HASH``, and goes on from there after a kill.
        batch: probes attacked at once.
        device: by default the GPU where there is one.
        settings: of :class:`.AttackSettings`: eps, step, steps, norm, gradient, query_budget, precision, restarts,
            max_queries, seed. ``max_queries`` probes are attacked; the threshold is of all pairs.

    Returns a result whose ``content["verification"]`` is a :class:`Verification`. Raises HoldfastError for what cannot
    be measured, such as a rate that there are too few pairs for, before any attack.
    """
    far = fit(Positive, far, "far")
    if batch < 1:
        raise HoldfastError(f"batch is at least 1 image, not {batch}")

    def resolve(opened: OpenedModel, pixels: Pixels) -> AttackSettings:
        resolved = resolve_settings(pixels.table.family, black_box=opened.black_box, attacks=ATTACKS, **settings)
        if not resolved.eps:
            raise HoldfastError("eps is above 0, or nothing is attacked")
        probes, templates = _sides(pixels)
        genuine, impostors = count_pairs(
            probes.take(drawn_probes(len(probes.ids), len(templates.ids), resolved.seed)), templates
        )
        require_rate(far, impostors, genuine)
        return resolved

    with examine(model, data, resolve, device=device, quiet=quiet) as it:
        identity = it.identity({THREAT: far})
        place = None if folder is None else Path(folder) / f"{THREAT}-{identity}"
        if place is not None and (known := finished(place, checks=False)):
            return known
        with working_in(place):
            records = Records(place)
            found, attacked = _measured(it, far, records, batch, quiet)
            return it.result(place, THREAT, identity, found, attacked=attacked, cost=records.cost())


def verification_of(result: Result) -> Verification | None:
    """What a result of ``holdfast verify`` found; None of another result, and HoldfastError of a damaged one."""
    found: Verification | None = result.content.get(THREAT)
    if found is not None:
        check(Verification, found, f"{result.path}: {THREAT}")
    return found


def _sides(pixels: Pixels) -> tuple[Faces, Faces]:
    """Probes and templates of a table."""
    table = pixels.table
    labels, ids = torch.from_numpy(table.labels), torch.arange(len(table))
    asked, stored = (torch.from_numpy(one) for one in (table.is_query, table.is_gallery))
    return Faces(labels[asked], ids[asked]), Faces(labels[stored], ids[stored])


def _measured(it: Examined, far: float, records: Records, batch: int, quiet: bool) -> tuple[dict[str, Any], int]:
    genuine, impostors = clean_distances(it.target.system, it.resolved.seed)
    require_rate(far, len(impostors), len(genuine))
    threshold = threshold_at(far, impostors)
    runners, found = runners_of(it.target, it.resolved, batch), dict[str, Any]()
    with Progress("verifying", 2 * sum(len(one.images) for one in runners), quiet=quiet) as progress:
        for runner in runners:
            progress.advance(by=len(records.of(runner.name)))
            with narrowed(it.target, len(runner.images)) as few:
                for _ in runner.run(few, records, progress):
                    pass
            smallest = _smallest(it, runner, threshold, records, progress)
            before, after = _reached(runner, records)
            moved = (after, impostors) if runner.name == Dodging.name else (genuine, after)
            found[runner.name] = {
                "before": _accepted(before, threshold),
                "after": _accepted(after, threshold),
                "EER": equal_error_rate(*(one.cpu() for one in moved)),
                "smallest": smallest,
            }
    return {
        "far": far,
        "threshold": threshold,
        "genuine": len(genuine),
        "impostors": len(impostors),
        "TAR": _accepted(genuine, threshold),
        "EER": equal_error_rate(genuine, impostors),
        "attacks": found,
    }, len(runners[0].images)


def clean_distances(system: System, seed: int) -> tuple[Tensor, Tensor]:
    """The distances that a threshold is found from, of genuine and of impostor pairs, ``(g,)`` and ``(i,)``, ascending.

    Where there are too many pairs, the seed draws the probes.
    """
    drawn = drawn_probes(len(system.queries.ids), len(system.gallery.ids), seed)
    return distances(system.queries.take(drawn.to(system.queries.ids.device)), system.gallery)


def _accepted(reached: Tensor, threshold: float) -> dict[str, float]:
    """The share of distances (n,) that are accepted, in percent, with its interval."""
    return share(100 * accepted_at(threshold, reached).double().cpu().numpy())


def _reached(runner: Runner, records: Records) -> list[Tensor]:
    """The distances (n,) of an attack's pairs, before and after."""
    (name,) = runner.attack.readings
    return [torch.tensor([one[when][name] for one in records.of(runner.name)]) for when in ("before", "after")]


@dataclass(frozen=True)
class Right:
    """Whether a verifier with a threshold is right about pairs, all of them genuine or all impostors."""

    genuine: bool
    threshold: float

    def wrong(self, readings: Mapping[str, Tensor]) -> Tensor:
        """Of which pairs it is not, (n,) bool, by the one reading there is, their distances (n,)."""
        (reached,) = readings.values()
        accepted = accepted_at(self.threshold, reached)
        return ~accepted if self.genuine else accepted


@dataclass(frozen=True, kw_only=True)
class Smallest(Runner):
    """Of pairs that an attack broke, the smallest perturbations that do.

    main: the attack that broke them. enough: the same attack, which ends once a pair is broken.
    """

    main: Runner
    enough: Dodging | Impersonation
    right: Right

    def carry_out(self, target: Target, rows: Tensor, surrogate: Target | None = None) -> Attacked:
        ids = target.system.queries.ids[rows]
        with narrowed(target, len(self.main.images)) as few:
            found = attack_batch(self.attack, few, rows, self.pgd, generators=self._generators(ids))

        def tried(i: int, places: Tensor, start: Tensor, radius: Tensor) -> Attacked:
            generators, scale = self._generators(ids[places]), radius / self.pgd.ball.eps
            with narrowed(target, len(self.images)) as few:
                return attack_batch(
                    self.enough, few, rows[places], self.pgd, generators=generators, initial=start, scale=scale
                )

        return bisect(found, self.pgd.ball, [tried], self.right.wrong)

    def _generators(self, ids: Tensor) -> list[torch.Generator]:
        """Those of the main attack, so that the same template is chosen."""
        return generators_of(self.main.name, self.seed, ids.tolist())


def _smallest(it: Examined, runner: Runner, threshold: float, records: Records, progress: Progress) -> dict[str, Any]:
    """The smallest perturbations of an attack's pairs, as :func:`.summary` has them; its curve is the share of pairs
    about which the verifier is right."""
    right = Right(runner.name == Dodging.name, threshold)
    attack = runner.attack
    assert isinstance(attack, Dodging | Impersonation)
    enough = replace(attack, enough=threshold if right.genuine else threshold * (1 - 1e-6))
    lines = records.of(runner.name)
    before, after = (right.wrong({"": reached}) for reached in _reached(runner, records))
    broken = (after & ~before).to(runner.images.device)
    name = SMALLEST + runner.name
    search = Smallest(
        name,
        attack,
        runner.pgd,
        runner.images[broken],
        runner.seed,
        runner.batch,
        main=runner,
        enough=enough,
        right=right,
    )
    progress.advance(by=int((~broken).sum()) + len(records.of(name)))
    for _ in search.run(it.target, records, progress):
        pass
    sizes = {one["id"]: min(one["moved"], it.resolved.eps) for one in records.of(name)}
    each = [0.0 if already else sizes.get(one["id"], inf) for one, already in zip(lines, before.tolist(), strict=True)]
    recall = (100 * (~before).double()).tolist()
    return summary([one["id"] for one in lines], each, recall, it.resolved.eps)
