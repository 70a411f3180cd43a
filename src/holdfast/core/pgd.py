"""Projected gradient descent on pixels: the only perturbation loop of the house."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from holdfast.core.gradients import WHITE_BOX, Generators, Gradient, Iterate, generators_at, random_like
from holdfast.core.objectives import Objective

Embed = Callable[[Tensor], Tensor]
"""A model: images (n, C, H, W) in [0, 1] to embeddings (n, D)."""


class Ball(Protocol):
    """The perturbations allowed: all ``r`` with a norm of at most ``eps``, per image."""

    @property
    def eps(self) -> float: ...

    def norm(self, r: Tensor) -> Tensor:
        """The size of perturbations, ``(n, ...) -> (n,)``."""

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest direction of unit size, ``(n, ...) -> (n, ...)``; zero where the gradient is zero."""

    def project(self, r: Tensor) -> Tensor:
        """The nearest perturbation inside the ball, ``(n, ...) -> (n, ...)``."""


@dataclass(frozen=True)
class LInf:
    """Every pixel may change by at most ``eps`` (in units of the pixel range [0, 1])."""

    eps: float

    def norm(self, r: Tensor) -> Tensor:
        return r.flatten(1).abs().amax(1)

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, r: Tensor) -> Tensor:
        return r.clamp(-self.eps, self.eps)


@dataclass(frozen=True)
class L2:
    """The change of an image has a Euclidean norm of at most ``eps``."""

    eps: float

    def norm(self, r: Tensor) -> Tensor:
        return _norm(r).flatten()

    def direction(self, gradient: Tensor) -> Tensor:
        norm = _norm(gradient)
        return gradient / norm.masked_fill(norm == 0, 1)

    def project(self, r: Tensor) -> Tensor:
        return r * (self.eps / _norm(r).clamp(min=torch.finfo(r.dtype).tiny)).clamp(max=1)


BALLS: dict[str, type[LInf] | type[L2]] = {"linf": LInf, "l2": L2}


Move = Callable[[Tensor, Tensor, Tensor | float], Tensor]
"""From images (g, R, C, H, W), a gradient like them, and the size of a step against it, to where that leads, inside all
bounds."""


class Walk(Protocol):
    """The steps of one descent."""

    @property
    def size(self) -> Tensor | float:
        """Of the next step, in units of :attr:`PGD.step`: one for all groups, or one for each, (G,)."""

    def go(self, rows: Tensor, at: Tensor, values: Tensor, gradient: Tensor, move: Move) -> Tensor:
        """Where the groups ``rows`` go from ``at`` (g, R, C, H, W), given the objective's values (g,) and gradient."""


class Schedule(Protocol):
    """How the steps of a descent follow on each other."""

    def begin(self, images: Tensor, steps: int) -> Walk:
        """A descent of so many steps from ``images`` (G, R, C, H, W)."""


@dataclass(frozen=True)
class Fixed:
    """Steps whose sizes are known before: from a step's place among the steps, in (0, 1), to its size."""

    sizes: Callable[[float], float]

    def begin(self, images: Tensor, steps: int) -> "FixedWalk":
        return FixedWalk(self.sizes, steps)


@dataclass
class FixedWalk:
    """A descent by :class:`Fixed`."""

    sizes: Callable[[float], float]
    steps: int
    taken: int = 0

    @property
    def size(self) -> float:
        return self.sizes((self.taken + 0.5) / self.steps)

    def go(self, rows: Tensor, at: Tensor, values: Tensor, gradient: Tensor, move: Move) -> Tensor:
        reached = move(at, gradient, self.size)
        self.taken += 1
        return reached


def _even(progress: float) -> float:
    return 1.0


def _fading(progress: float) -> float:
    return 2 * (1 - progress)


CONSTANT = Fixed(_even)
"""Steps of one size."""

DECAYING = Fixed(_fading)
"""Steps that get smaller linearly, from nearly twice their mean to nearly nothing: the descent comes to rest."""

MOMENTUM = 0.25
"""Share of the last move in the next."""

PAYING = 0.75
"""Share of the steps since a checkpoint that must lower the objective."""


@dataclass(frozen=True)
class Adaptive:
    """Auto-PGD (Croce & Hein, ICML 2020): steps with momentum, halved where they stop paying. Use a step of
    2 ε, or of ε where the steps are few.

    At checkpoints, a group most of whose last steps failed to lower its objective, or that found nothing better with
    the same size, goes back to its best point and halves its steps.
    """

    def begin(self, images: Tensor, steps: int) -> "AdaptiveWalk":
        return AdaptiveWalk(images, steps)


class AdaptiveWalk:
    """A descent by :class:`Adaptive`; each group has a state of its own, so that others do not change its course."""

    def __init__(self, images: Tensor, steps: int) -> None:
        self.taken, self.checkpoints = 0, checkpoints(steps)
        self.size = torch.ones(len(images), device=images.device)
        self.best, self.slope, self.previous = images.clone(), torch.zeros_like(images), images.clone()
        self.lowest, self.before = (torch.full_like(self.size, torch.inf) for _ in range(2))
        self.last, self.falls = torch.full_like(self.size, -torch.inf), torch.zeros_like(self.size)
        self.halved = torch.ones_like(self.size, dtype=torch.bool)

    def go(self, rows: Tensor, at: Tensor, values: Tensor, gradient: Tensor, move: Move) -> Tensor:
        values = values.to(self.last)
        self.falls[rows] += (values < self.last[rows]).to(self.falls)
        self.last[rows] = values
        better = values < self.lowest[rows]
        kept = rows[better]
        self.best[kept], self.slope[kept], self.lowest[kept] = at[better], gradient[better], values[better]
        if (span := self.checkpoints.get(self.taken)) is not None:
            at, gradient = self._look_back(rows, at, gradient, span)
        reached = move(at, gradient, self.size[rows])
        if self.taken:
            past = at - self.previous[rows]
            reached = move(at + (1 - MOMENTUM) * (reached - at) + MOMENTUM * past, gradient, 0.0)
        self.previous[rows] = at
        self.taken += 1
        return reached

    def _look_back(self, rows: Tensor, at: Tensor, gradient: Tensor, span: int) -> tuple[Tensor, Tensor]:
        still = ~self.halved[rows] & (self.lowest[rows] >= self.before[rows])
        stuck = (self.falls[rows] < PAYING * span) | still
        back = rows[stuck]
        at, gradient = at.clone(), gradient.clone()
        at[stuck], gradient[stuck] = self.best[back], self.slope[back]
        self.size[back] /= 2
        self.previous[back] = self.best[back]
        self.halved[rows], self.before[rows], self.falls[rows] = stuck, self.lowest[rows], 0
        return at, gradient


def checkpoints(steps: int) -> dict[int, int]:
    """After how many steps to look back, and on how many: 22 % of them at first, then 3 points fewer each time to 6."""
    found, place, span = {}, 0, max(1, int(0.22 * steps))
    while (place := place + span) < steps:
        found[place] = span
        span = max(span - max(1, int(0.03 * steps)), 1, int(0.06 * steps))
    return found


def crossing(eps: float, steps: int) -> float:
    """The step with which so many lead two and a half times across a radius."""
    return 2.5 * eps / max(1, steps)


@dataclass(frozen=True)
class PGD:
    """``steps`` steps of size ``step`` inside the ``ball`` and inside the pixel range [0, 1] (Madry et al. 2018).

    start: radius, in the ball's norm, of the noise the descent starts from; 0 starts from the images themselves.
    gradient: how the direction is found; by default back-propagation.
    schedule: how the steps follow on each other; by default they are of one size.
    best: return each group's iterate of the lowest objective, not its last one.
    restarts: so many further descents from random points of the ball; the best iterate of all is returned.

    Groups that have reached their objective's floor are left alone from then on, which changes nothing in the
    result, since their gradient is zero, and saves their passes. That is exact for embedders that treat the
    images of a batch independently, as they do in evaluation mode.
    """

    ball: Ball
    step: float
    steps: int
    start: float = 0.0
    gradient: Gradient = WHITE_BOX
    schedule: Schedule = CONSTANT
    best: bool = False
    restarts: int = 0

    def __call__(
        self,
        embed: Embed,
        images: Tensor,
        objective: Objective,
        *,
        clean: Tensor | None = None,
        generator: Generators = None,
        initial: Tensor | None = None,
    ) -> Tensor:
        """Perturb groups of images toward lower values of the objective.

        embed: pixels ``(n, C, H, W)`` to embeddings ``(n, D)``.
        images: ``(G, R, C, H, W)`` in [0, 1], G groups of R images each.
        clean: embeddings ``(G, R, D)`` of the images where they are at hand; groups they show to be finished
            are never embedded again.
        generator: of what is random; G of them where a group's draws must not depend on the others.
        initial: images in the ball that the first descent starts from, in place of ``start``.

        Returns the adversarial images, ``(G, R, C, H, W)``. Raises FloatingPointError when the objective is not
        finite: the gradient would be no direction.
        """
        known = clean if self.start == 0 and initial is None else None
        rows = torch.arange(len(images), device=images.device)
        first = self._start(images, generator, self.start) if initial is None else initial.clone()
        adversarial, values = self._descend(embed, images, objective, rows, first, clean=known, generators=generator)
        for _ in range(self.restarts):
            unfinished = rows[values > objective.floor]
            again = self._start(images, generator, self.ball.eps)
            other, reached = self._descend(
                embed, images, objective, unfinished, again, clean=None, generators=generator
            )
            better = reached < values
            adversarial[better], values[better] = other[better], reached[better]
        return adversarial

    def _descend(
        self,
        embed: Embed,
        images: Tensor,
        objective: Objective,
        rows: Tensor,
        current: Tensor,
        *,
        clean: Tensor | None,
        generators: Generators,
    ) -> tuple[Tensor, Tensor]:
        """One descent of the groups ``rows`` from ``current``, which it changes: the images, and the objective ``(G,)``
        where the best iterate is kept (else, and of other groups, infinite)."""
        keep = self.best or self.restarts > 0
        walk = self.schedule.begin(current, self.steps)
        result = current.clone() if keep else current
        lowest = torch.full((len(images),), torch.inf, device=images.device)
        if clean is not None:
            values = _finite(objective(clean, rows))
            lowest = values.detach().to(lowest)
            rows = rows[values > objective.floor]

        def value(pixels: Tensor) -> Tensor:
            z = embed(pixels.flatten(0, 1)).view(*pixels.shape[:2], -1)
            return _finite(objective(z, rows))

        def step(at: Tensor, gradient: Tensor, size: Tensor | float) -> Tensor:
            origin, length = images[rows].flatten(0, 1), self.step * size
            if isinstance(length, Tensor):
                length = length.repeat_interleave(at.shape[1]).view(-1, *[1] * (origin.ndim - 1))
            r = at.flatten(0, 1) - origin
            r = self.ball.project(r - length * self.ball.direction(gradient.flatten(0, 1)))
            return (origin + r).clamp(0, 1).view_as(at)

        def move(direction: Tensor) -> Tensor:
            size = walk.size
            return step(current[rows], direction, size[rows] if isinstance(size, Tensor) else size)

        def note(values: Tensor) -> None:
            better = rows[values < lowest[rows]]
            result[better], lowest[better] = current[better], values.to(lowest)[values < lowest[rows]]

        for i in range(self.steps):
            if not len(rows):
                break
            at = Iterate(current[rows], value, move, objective.floor, i / self.steps)
            values, gradient = self.gradient(at, generators_at(generators, rows))
            if keep:
                note(values)
            unfinished = values > objective.floor
            rows, gradient, values = rows[unfinished], gradient[unfinished], values[unfinished]
            current[rows] = walk.go(rows, current[rows], values, gradient, step)
        if keep and len(rows):
            with torch.no_grad():
                note(value(current[rows]))
        return result, lowest

    def scaled(self, factor: float) -> "PGD":
        """The same descent with radius, step and start multiplied by ``factor``."""
        ball = replace(self.ball, eps=self.ball.eps * factor)  # type: ignore[type-var]
        return replace(self, ball=ball, step=self.step * factor, start=self.start * factor)

    def _start(self, images: Tensor, generators: Generators, radius: float) -> Tensor:
        if radius == 0:
            return images.clone()
        near = replace(self.ball, eps=min(radius, self.ball.eps))  # type: ignore[type-var]
        noise = random_like(torch.rand, images, generators).mul_(2).sub_(1).mul_(radius)
        r = near.project(noise.flatten(0, 1)).view_as(images)
        return (images + r).clamp(0, 1)


def _finite(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise FloatingPointError(f"{int((~values.isfinite()).sum())} of {len(values)} perturbed groups are not finite")
    return values


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
    return norm
