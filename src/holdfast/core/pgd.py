"""Projected gradient descent on pixels: the only perturbation loop of the house."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from holdfast.core.gradients import (
    WHITE_BOX,
    Generators,
    Gradient,
    Iterate,
    generators_at,
    over_draws,
    random_like,
)
from holdfast.core.objectives import Objective
from holdfast.core.steps import AdamWalk, AdaptiveWalk, Ball, FixedWalk, LInf, Walk, of_each
from holdfast.util.text import counted

Embed = Callable[[Tensor], Tensor]
"""A model: images (n, C, H, W) in [0, 1] to embeddings (n, D)."""


class Schedule(Protocol):
    """How the steps of a descent follow on each other."""

    def begin(self, images: Tensor, steps: int, ball: Ball) -> Walk:
        """A descent of so many steps in a ball from ``images`` (G, R, C, H, W)."""


@dataclass(frozen=True)
class Fixed:
    """Steps whose sizes are known before: from a step's place among the steps, in (0, 1), to its size."""

    sizes: Callable[[float], float]

    def begin(self, images: Tensor, steps: int, ball: Ball) -> FixedWalk:
        return FixedWalk(self.sizes, steps, ball)


def _even(progress: float) -> float:
    return 1.0


def _fading(progress: float) -> float:
    return 2 * (1 - progress)


CONSTANT = Fixed(_even)
"""Steps of one size."""

DECAYING = Fixed(_fading)
"""Steps that get smaller linearly, from nearly twice their mean to nearly nothing: the descent comes to rest."""


@dataclass(frozen=True)
class Adaptive:
    """Auto-PGD (Croce & Hein, ICML 2020): steps with momentum, halved where they stop paying. Use a step of
    2 ε, or of ε where the steps are few.

    At checkpoints, a group most of whose last steps failed to lower its objective, or that found nothing better with
    the same size, goes back to its best point and halves its steps.
    """

    def begin(self, images: Tensor, steps: int, ball: Ball) -> AdaptiveWalk:
        return AdaptiveWalk(images, steps, ball)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, ICLR 2015), with steps that fall linearly to nothing.

    A pixel whose gradient keeps its sign moves by whole steps, one whose gradient changes by less: on a rough landscape
    that leads farther than the sign of each gradient.
    """

    def begin(self, images: Tensor, steps: int, ball: Ball) -> AdamWalk:
        return AdamWalk(images, steps, ball)


def crossing(eps: float, steps: int) -> float:
    """The step with which so many lead two and a half times across a radius."""
    return 2.5 * eps / max(1, steps)


def rounded(images: Tensor, clean: Tensor, ball: Ball, times: Tensor | float | None = None) -> Tensor:
    """Perturbed images (B, C, H, W) on the grid of 1/255, still in the ball around images that lie on it.

    Each pixel goes to the nearest value that the ball allows; under L2, where all of them together would leave it,
    each is cut off toward the clean one instead. times: how many times the ball, of each image (B, 1, 1, 1).
    """
    eps = ball.eps * torch.as_tensor(1.0 if times is None else times, device=images.device)
    r = (images - clean) * 255
    near, short = r.round(), r.trunc()
    if isinstance(ball, LInf):
        most = (255 * eps + 1e-4).floor()
        near = near.clamp(-most, most)
    inside = (ball.norm(near / 255) <= eps.flatten() + 1e-6).view(-1, 1, 1, 1)
    return (clean * 255 + torch.where(inside, near, short)).round().clamp(0, 255) / 255


@dataclass(frozen=True)
class PGD:
    """``steps`` steps of size ``step`` inside the ``ball`` and inside the pixel range [0, 1] (Madry et al. 2018).

    start: radius, in the ball's norm, of the noise the descent starts from; 0 starts from the images themselves.
    gradient: how the direction is found; by default back-propagation.
    schedule: how the steps follow on each other; by default they are of one size.
    best: return each group's iterate of the lowest objective, not its last one.
    restarts: so many further descents from random points of the ball; the best iterate of all is returned.
    draws: over how many calls of an embedder that draws random numbers the objective and its gradient are averaged.
    eight_bits: the embedder is shown :func:`rounded` images, as one that takes files is; no gradient passes through.

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
    draws: int = 1
    eight_bits: bool = False

    def __call__(
        self,
        embed: Embed,
        images: Tensor,
        objective: Objective,
        *,
        clean: Tensor | None = None,
        generator: Generators = None,
        initial: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> Tensor:
        """Perturb groups of images toward lower values of the objective.

        embed: pixels ``(n, C, H, W)`` to embeddings ``(n, D)``.
        images: ``(G, R, C, H, W)`` in [0, 1], G groups of R images each.
        clean: embeddings ``(G, R, D)`` of the images where they are at hand; groups they show to be finished
            are never embedded again.
        generator: of what is random; G of them where a group's draws must not depend on the others.
        initial: images in the ball that the first descent starts from, in place of ``start``.
        scale: how many times the ball, the step and the start of each group, ``(G,)``, positive; by default once.

        Returns the adversarial images, ``(G, R, C, H, W)``. Raises FloatingPointError when the objective is not
        finite: the gradient would be no direction.
        """
        known = clean if self.start == 0 and initial is None and self.draws == 1 else None
        rows = torch.arange(len(images), device=images.device)
        first = self._start(images, generator, self.start, scale) if initial is None else initial.clone()
        adversarial, values = self._descend(
            embed, images, objective, rows, first, clean=known, generators=generator, scale=scale
        )
        for _ in range(self.restarts):
            unfinished = rows[values > objective.floor]
            again = self._start(images, generator, self.ball.eps, scale)
            other, reached = self._descend(
                embed, images, objective, unfinished, again, clean=None, generators=generator, scale=scale
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
        scale: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """One descent of the groups ``rows`` from ``current``, which it changes: the images, and the objective ``(G,)``
        where the best iterate is kept (else, and of other groups, infinite)."""
        keep = self.best or self.restarts > 0
        walk = self.schedule.begin(current, self.steps, self.ball)
        result = current.clone() if keep else current
        lowest = torch.full((len(images),), torch.inf, device=images.device)
        known = torch.full((len(images),), torch.nan, dtype=torch.float64, device=images.device)
        if clean is not None:
            values = _finite(objective(clean, rows))
            lowest, known = (values.detach().to(one, copy=True) for one in (lowest, known))
            rows = rows[values > objective.floor]

        def once(pixels: Tensor) -> Tensor:
            shown = pixels.flatten(0, 1)
            if self.eight_bits:
                times = None if scale is None else _of_each_image(scale[rows], pixels)
                shown = _as_files(shown, images[rows].flatten(0, 1), self.ball, times)
            return _finite(objective(embed(shown).view(*pixels.shape[:2], -1), rows))

        value = once if self.draws == 1 else over_draws(once, self.draws)

        def step(at: Tensor, direction: Tensor, size: Tensor | float) -> Tensor:
            origin, length = images[rows].flatten(0, 1), self.step * size
            if isinstance(length, Tensor):
                length = _of_each_image(length, at)
            r = at.flatten(0, 1) - origin
            if scale is None:
                r = self.ball.project(r - length * direction.flatten(0, 1))
            else:
                times = _of_each_image(scale[rows], at)
                r = times * self.ball.project(r / times - length * direction.flatten(0, 1))
            return (origin + r).clamp(0, 1).view_as(at)

        def move(direction: Tensor) -> Tensor:
            ahead, size = of_each(self.ball.direction, direction), walk.size
            return step(current[rows], ahead, size[rows] if isinstance(size, Tensor) else size)

        def note(values: Tensor) -> None:
            better = rows[values < lowest[rows]]
            result[better], lowest[better] = current[better], values.to(lowest)[values < lowest[rows]]

        def remembered() -> tuple[Tensor, Tensor] | tuple[None, None]:
            """What is known of the groups in play, and room for what a step finds out; draws are never alike."""
            return (known[rows], torch.full_like(known[rows], torch.nan)) if self.draws == 1 else (None, None)

        for i in range(self.steps):
            if keep:
                note(known[rows])
            rows = rows[~(known[rows] <= objective.floor)]  # finished by the step before: not asked about again
            if not len(rows):
                break
            at = Iterate(current[rows], value, move, objective.floor, i / self.steps, *remembered())
            values, gradient = self.gradient(at, generators_at(generators, rows))
            if at.ahead is not None:
                known[rows] = at.ahead
            if keep:
                note(values)
            unfinished = values > objective.floor
            rows, gradient, values = rows[unfinished], gradient[unfinished], values[unfinished]
            current[rows] = walk.go(rows, current[rows], values, gradient, step)
        if keep and len(rows):
            with torch.no_grad():
                note(Iterate(current[rows], value, move, objective.floor, 1.0, *remembered()).values())
        return result, lowest

    def scaled(self, factor: float) -> "PGD":
        """The same descent with radius, step and start multiplied by ``factor``."""
        ball = replace(self.ball, eps=self.ball.eps * factor)  # type: ignore[type-var]
        return replace(self, ball=ball, step=self.step * factor, start=self.start * factor)

    def _start(self, images: Tensor, generators: Generators, radius: float, scale: Tensor | None) -> Tensor:
        if radius == 0:
            return images.clone()
        near = replace(self.ball, eps=min(radius, self.ball.eps))  # type: ignore[type-var]
        noise = random_like(torch.rand, images, generators).mul_(2).sub_(1).mul_(radius)
        r = near.project(noise.flatten(0, 1))
        r = (r if scale is None else r * _of_each_image(scale, images)).view_as(images)
        return (images + r).clamp(0, 1)


def _finite(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise FloatingPointError(
            f"{int((~values.isfinite()).sum())} of {counted(len(values), 'perturbed group')} are not finite"
        )
    return values


def _as_files(images: Tensor, clean: Tensor, ball: Ball, times: Tensor | None) -> Tensor:
    """Images (B, C, H, W) as files of 8 bits hold them: :func:`rounded` inside the ball; of others, which NES asks
    about, every pixel goes to the nearest value."""
    radius = ball.eps if times is None else ball.eps * times.flatten()
    outside = ball.norm(images - clean) > radius + 1e-6
    return torch.where(outside.view(-1, 1, 1, 1), (images * 255).round() / 255, rounded(images, clean, ball, times))


def _of_each_image(values: Tensor, groups: Tensor) -> Tensor:
    """What each of the ``groups`` (G, R, C, H, W) has one of, (G,), for each of their images, (G * R, 1, 1, 1)."""
    return values.repeat_interleave(groups.shape[1]).view(-1, *[1] * (groups.ndim - 2))
