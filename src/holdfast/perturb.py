"""Projected gradient descent on pixels: the only perturbation loop of the house."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Generator, Tensor

Embed = Callable[[Tensor], Tensor]


class Objective(Protocol):
    """What a perturbation minimises: one value per group of images (a triplet, a pair, a query).

    Called as ``objective(z (g, R, D), rows (g,)) -> (g,)``; ``rows`` says which of the groups are in play. A group
    whose value is down to ``floor`` is finished: its gradient is zero from there on.
    """

    @property
    def floor(self) -> float: ...

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor: ...


class Ball(Protocol):
    """The perturbations allowed: all ``r`` with a norm of at most ``eps``, per image."""

    @property
    def eps(self) -> float: ...

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest direction of unit size, ``(n, ...) -> (n, ...)``; zero where the gradient is zero."""

    def project(self, r: Tensor) -> Tensor:
        """The nearest perturbation inside the ball, ``(n, ...) -> (n, ...)``."""


@dataclass(frozen=True)
class LInf:
    """Every pixel may change by at most ``eps`` (in units of the pixel range [0, 1])."""

    eps: float

    def direction(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, r: Tensor) -> Tensor:
        return r.clamp(-self.eps, self.eps)


@dataclass(frozen=True)
class L2:
    """The change of an image has a Euclidean norm of at most ``eps``."""

    eps: float

    def direction(self, gradient: Tensor) -> Tensor:
        norm = _norm(gradient)
        return gradient / norm.masked_fill(norm == 0, 1)

    def project(self, r: Tensor) -> Tensor:
        return r * (self.eps / _norm(r).clamp(min=torch.finfo(r.dtype).tiny)).clamp(max=1)


BALLS: dict[str, type[LInf] | type[L2]] = {"linf": LInf, "l2": L2}


@dataclass(frozen=True)
class PGD:
    """``steps`` steps of size ``step`` inside the ``ball`` and inside the pixel range [0, 1] (Madry et al. 2018).

    start: radius, in the ball's norm, of the noise the descent starts from; 0 starts from the images themselves.

    Groups that have reached their objective's floor are left alone from then on, which changes nothing in the
    result, since their gradient is zero, and saves their passes. That is exact for embedders that treat the
    images of a batch independently, as they do in evaluation mode.
    """

    ball: Ball
    step: float
    steps: int
    start: float = 0.0

    def __call__(
        self,
        embed: Embed,
        images: Tensor,
        objective: Objective,
        *,
        clean: Tensor | None = None,
        generator: Generator | None = None,
    ) -> Tensor:
        """Perturb groups of images toward lower values of the objective.

        embed: pixels ``(n, C, H, W)`` to embeddings ``(n, D)``.
        images: ``(G, R, C, H, W)`` in [0, 1], G groups of R images each.
        clean: embeddings ``(G, R, D)`` of the images where they are at hand; groups they show to be finished
            are never embedded again.

        Returns the adversarial images, ``(G, R, C, H, W)``. Raises FloatingPointError when the objective is not
        finite: the gradient would be no direction.
        """
        rows = torch.arange(len(images), device=images.device)
        adversarial = self._start(images, generator)
        if clean is not None and self.start == 0:
            rows = rows[_finite(objective(clean, rows)) > objective.floor]
        for _ in range(self.steps):
            if not len(rows):
                break
            rows, gradient = _gradient(embed, adversarial[rows], objective, rows)
            origin = images[rows].flatten(0, 1)
            r = adversarial[rows].flatten(0, 1) - origin
            r = self.ball.project(r - self.step * self.ball.direction(gradient.flatten(0, 1)))
            adversarial[rows] = (origin + r).clamp(0, 1).view_as(gradient)
        return adversarial

    def scaled(self, factor: float) -> "PGD":
        """The same descent with radius, step and start multiplied by ``factor``."""
        ball = replace(self.ball, eps=self.ball.eps * factor)  # type: ignore[type-var]
        return replace(self, ball=ball, step=self.step * factor, start=self.start * factor)

    def _start(self, images: Tensor, generator: Generator | None) -> Tensor:
        if self.start == 0:
            return images.clone()
        device = generator.device if generator is not None else images.device
        noise = torch.empty(images.shape, device=device).uniform_(-self.start, self.start, generator=generator)
        near = replace(self.ball, eps=min(self.start, self.ball.eps))  # type: ignore[type-var]
        r = near.project(noise.to(images).flatten(0, 1)).view_as(images)
        return (images + r).clamp(0, 1)


def _gradient(embed: Embed, images: Tensor, objective: Objective, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The groups not yet finished, ``(g,)``, and the objective's gradient for their pixels, ``(g, R, C, H, W)``."""
    pixels = images.detach().requires_grad_()
    with torch.enable_grad():
        z = embed(pixels.flatten(0, 1)).view(*pixels.shape[:2], -1)
        values = _finite(objective(z, rows))
        # Groups do not share images, so the gradient of the sum holds the gradient of each.
        total = values.sum()
    unfinished = (values > objective.floor).nonzero().squeeze(1)
    if not len(unfinished):
        return rows[unfinished], pixels.new_empty((0, *pixels.shape[1:]))
    (gradient,) = torch.autograd.grad(total, pixels)
    return rows[unfinished], gradient[unfinished]


def _finite(values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise FloatingPointError(f"{int((~values.isfinite()).sum())} of {len(values)} perturbed groups are not finite")
    return values


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
    return norm
