"""Minimal ε: the size of the smallest perturbation found that breaks a query, by bisection.

Of a query that the cascade broke, the adversarial image is made again. Then the radius is halved, between the largest
one at which all trials failed and the size of the smallest perturbation that broke the query. A trial starts from the
last adversarial image, scaled into the new ball. A black box has the stages of the cascade for trials.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isinf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.attacks.base import Attacked
from holdfast.attacks.misrank import Misrank
from holdfast.core.steps import Ball
from holdfast.evaluation.protocols import TRIALS, Stage
from holdfast.evaluation.records import Records
from holdfast.evaluation.robust.cascade import PREFIX, descent, followed, stages_of
from holdfast.evaluation.robust.draws import attack_over_draws, unattacked
from holdfast.evaluation.runner import Runner, Target, generators_of, narrowed
from holdfast.evaluation.settings import AttackSettings
from holdfast.util.progress import Progress

NAME = "minimal"
"""What the records are called."""

HALVINGS = 8

RADII = 64
"""In how many equal steps the curve goes up to ε."""

QUARTILES = (0.25, 0.5, 0.75)


def minimal_eps(
    target: Target,
    resolved: AttackSettings,
    rows: Tensor,
    records: Records,
    progress: Progress,
    *,
    batch: int,
    surrogate: Target | None = None,
) -> dict[str, Any]:
    """``minimal eps`` of a result, of the queries at ``rows`` (n,) that the cascade was tried on; goes on where
    ``records`` end.

    ``each`` is a list of id and minimal ε, 0 for a query that fails unattacked and None for one that the cascade did
    not break; of these there are ``beyond``. ``quartiles`` are the smallest ε that break a quarter, half and three
    quarters of the queries, None where that is beyond the radius. ``curve`` is a list of ε and R@1 in percent; at the
    budget's ε that is robust R@1.
    """
    queries = target.system.queries.take(rows)
    ids, worst = queries.ids.tolist(), unattacked(target, rows, resolved.seed).tolist()
    sizes, breakers = dict.fromkeys(ids, inf), dict[int, Breaker]()
    for stage in stages_of(resolved):
        tried = records.of(PREFIX + stage.name)
        for record in tried:
            if record["after"]["R@1"] == 0:
                sizes[record["id"]], breakers[record["id"]] = record["moved"], (stage, len(tried))
    broken = rows[torch.tensor([i in breakers for i in ids], dtype=torch.bool, device=rows.device)]
    runner = Bisection(
        NAME,
        Misrank(),
        descent(TRIALS[0], resolved),
        broken,
        resolved.seed,
        batch,
        resolved=resolved,
        breakers=breakers,
    )
    progress.total += len(broken)
    progress.advance(by=len(records.of(NAME)))
    for _ in runner.run(target, records, progress, surrogate):
        pass
    for record in records.of(NAME):
        if record["after"]["R@1"] == 0:
            sizes[record["id"]] = min(sizes[record["id"]], record["moved"])
    found = [0.0 if recall == 0 else size for size, recall in zip(sizes.values(), worst, strict=True)]
    return summary(ids, [size if isinf(size) else min(size, resolved.eps) for size in found], worst, resolved.eps)


def summary(ids: Iterable[int], sizes: list[float], recall: list[float], eps: float) -> dict[str, Any]:
    """What :func:`minimal_eps` says of queries with these ids, minimal ε (infinite beyond ``eps``), and clean R@1."""
    values, clean = np.array(sizes), np.array(recall)
    quartiles = [float(one) for one in np.quantile(values, QUARTILES, method="inverted_cdf")]
    radii = [eps * i / RADII for i in range(RADII + 1)]
    return {
        "queries": len(values),
        "beyond": int(np.isinf(values).sum()),
        "quartiles": [None if isinf(one) else one for one in quartiles],
        "curve": [[radius, float((clean * (values > radius)).mean())] for radius in radii],
        "each": [[i, None if isinf(size) else size] for i, size in zip(ids, sizes, strict=True)],
    }


def trials_of(resolved: AttackSettings) -> list[Stage]:
    """What a query meets at each radius: the stages of its cascade where none of :data:`.TRIALS` can be made."""
    return [*stages_of(resolved, TRIALS)] or [*stages_of(resolved)]


Trial = Callable[[int, Tensor, Tensor, Tensor], Attacked]
"""From the number of a halving, the places (n,) of the images to try, where they start (n, C, H, W) and their radii
(n,), to what becomes of them."""


def bisect(
    found: Attacked, ball: Ball, trials: Sequence[Trial], broken: Callable[[Mapping[str, Tensor]], Tensor]
) -> Attacked:
    """Make the perturbations of images that are all broken smaller, in :data:`HALVINGS` halvings of the radius.

    trials: each on the images that those before it did not break at the radius. broken: from readings to which images
    (n,) are. Returns what was ``found``, changed in place, at the smallest perturbations that broke.
    """
    clean, images = found.clean, found.images
    low = torch.zeros(len(images), device=images.device)
    for i in range(HALVINGS):
        high = ball.norm(images - clean).clamp(min=torch.finfo(images.dtype).eps)
        low = low.where(low < high, 0)  # what failed there was the trial
        radius, left = (low + high) / 2, torch.arange(len(images), device=images.device)
        start = clean + (radius / high).view(-1, 1, 1, 1) * (images - clean)
        for trial in trials:
            if not len(left):
                break
            tried = trial(i, left, start[left], radius[left])
            done = broken(tried.after)
            images[left[done]] = tried.images[done]
            for name, values in found.after.items():
                values[left[done]] = tried.after[name][done]
            left = left[~done]
        low[left] = radius[left]
    return found


Breaker = tuple[Stage, int]
"""A stage of the cascade, and on how many queries it was tried."""


@dataclass(frozen=True, kw_only=True)
class Bisection(Runner):
    """Of queries that the cascade broke, the smallest perturbations that do. breakers: by id, what broke them there."""

    resolved: AttackSettings
    breakers: Mapping[int, Breaker]

    def carry_out(self, target: Target, rows: Tensor, surrogate: Target | None = None) -> Attacked:
        attempt = partial(self._attempt, target, surrogate)
        found = self._broken_again(target.system.queries.ids[rows].tolist(), rows, attempt)
        trials = trials_of(self.resolved)

        def tried(stage: Stage, i: int, places: Tensor, start: Tensor, radius: Tensor) -> Attacked:
            breaker, name = (stage, len(self.images)), f"{NAME}.{i}.{stage.name}"
            return attempt(breaker, name, rows[places], initial=start, scale=radius / self.resolved.eps)

        return bisect(found, self.pgd.ball, [partial(tried, stage) for stage in trials], lambda z: z["R@1"] == 0)

    def _broken_again(self, ids: list[int], rows: Tensor, attempt: Callable[..., Attacked]) -> Attacked:
        """What became of the images in the cascade, by the stages that broke them."""
        breakers = [self.breakers[i] for i in ids]
        parts, order = list[Attacked](), list[int]()
        for breaker in dict.fromkeys(breakers):
            places = [i for i, one in enumerate(breakers) if one == breaker]
            parts.append(attempt(breaker, PREFIX + breaker[0].name, rows[places]))
            order += places
        back = torch.tensor(order, device=rows.device).argsort()
        clean, images, chosen = (
            torch.cat([getattr(part, name) for part in parts])[back] for name in ("clean", "images", "chosen")
        )
        before, after = (
            {"R@1": torch.cat([getattr(part, name)["R@1"] for part in parts])[back]} for name in ("before", "after")
        )
        return Attacked(clean, images, chosen, before, after, parts[0].outcome)

    def _attempt(
        self,
        target: Target,
        surrogate: Target | None,
        breaker: Breaker,
        name: str,
        rows: Tensor,
        *,
        initial: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Attacked:
        stage, count = breaker
        generators = generators_of(name, self.seed, target.system.queries.ids[rows].tolist())
        with narrowed(target, count) as few:
            return attack_over_draws(
                stage.attack,
                few,
                rows,
                descent(stage, self.resolved),
                generators=generators,
                surrogate=followed(stage, surrogate),
                initial=initial,
                scale=scale,
            )
