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


def constant(progress: float) -> float:
    """Steps of one size."""
    return 1.0


def decaying(progress: float) -> float:
    """Steps that get smaller linearly, from nearly twice their mean to nearly nothing: the descent comes to rest."""
    return 2 * (1 - progress)


def crossing(eps: float, steps: int) -> float:
    """The step with which so many lead two and a half times across a radius."""
    return 2.5 * eps / max(1, steps)


@dataclass(frozen=True)
class PGD:
    """``steps`` steps of size ``step`` inside the ``ball`` and inside the pixel range [0, 1] (Madry et al. 2018).

    start: radius, in the ball's norm, of the noise the descent starts from; 0 starts from the images themselves.
    gradient: how the direction is found; by default back-propagation.
    schedule: from the place of a step among the steps, in (0, 1), to its size in units of ``step``.
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
    schedule: Callable[[float], float] = constant
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
    ) -> Tensor:
        """Perturb groups of images toward lower values of the objective.

        embed: pixels ``(n, C, H, W)`` to embeddings ``(n, D)``.
        images: ``(G, R, C, H, W)`` in [0, 1], G groups of R images each.
        clean: embeddings ``(G, R, D)`` of the images where they are at hand; groups they show to be finished
            are never embedded again.
        generator: of what is random; G of them where a group's draws must not depend on the others.

        Returns the adversarial images, ``(G, R, C, H, W)``. Raises FloatingPointError when the objective is not
        finite: the gradient would be no direction.
        """
        known = clean if self.start == 0 else None
        rows = torch.arange(len(images), device=images.device)
        adversarial, values = self._descend(
            embed, images, objective, rows, clean=known, generators=generator, start=self.start
        )
        for _ in range(self.restarts):
            unfinished = rows[values > objective.floor]
            other, reached = self._descend(
                embed, images, objective, unfinished, clean=None, generators=generator, start=self.ball.eps
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
        *,
        clean: Tensor | None,
        generators: Generators,
        start: float,
    ) -> tuple[Tensor, Tensor]:
        """One descent of the groups ``rows``: the images, and the objective ``(G,)`` where the best iterate is kept
        (else, and of other groups, infinite)."""
        keep = self.best or self.restarts > 0
        current = self._start(images, generators, start)
        result = current.clone() if keep else current
        lowest = torch.full((len(images),), torch.inf, device=images.device)
        if clean is not None:
            values = _finite(objective(clean, rows))
            lowest = values.detach().to(lowest)
            rows = rows[values > objective.floor]

        def value(pixels: Tensor) -> Tensor:
            z = embed(pixels.flatten(0, 1)).view(*pixels.shape[:2], -1)
            return _finite(objective(z, rows))

        def move(direction: Tensor) -> Tensor:
            origin = images[rows].flatten(0, 1)
            r = current[rows].flatten(0, 1) - origin
            r = self.ball.project(r - size * self.ball.direction(direction.flatten(0, 1)))
            return (origin + r).clamp(0, 1).view_as(direction)

        def note(values: Tensor) -> None:
            better = rows[values < lowest[rows]]
            result[better], lowest[better] = current[better], values.to(lowest)[values < lowest[rows]]

        for i in range(self.steps):
            if not len(rows):
                break
            size = self.step * self.schedule((i + 0.5) / self.steps)
            at = Iterate(current[rows], value, move, objective.floor, i / self.steps)
            values, gradient = self.gradient(at, generators_at(generators, rows))
            if keep:
                note(values)
            unfinished = values > objective.floor
            rows, gradient = rows[unfinished], gradient[unfinished]
            current[rows] = move(gradient)
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
