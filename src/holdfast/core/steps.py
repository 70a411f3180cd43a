"""The steps of one descent: the ball they stay in, and how long they are: as planned, as they pay, or as sure as a
pixel's gradient is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Ball(Protocol):
    """The perturbations allowed: all ``r`` with a norm of at most ``eps``, per image."""

    @property
    def eps(self) -> float: ...

    def norm(self, r: Tensor) -> Tensor:
        """The size of perturbations, ``(n, ...) -> (n,)``."""

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest direction of unit size, ``(n, ...) -> (n, ...)``; zero where the gradient is zero."""

    def within(self, direction: Tensor) -> Tensor:
        """A direction with a size of at most 1, ``(n, ...) -> (n, ...)``."""

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

    def within(self, direction: Tensor) -> Tensor:
        return direction.clamp(-1, 1)

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

    def within(self, direction: Tensor) -> Tensor:
        return direction / _norm(direction).clamp(min=1)

    def project(self, r: Tensor) -> Tensor:
        return r * (self.eps / _norm(r).clamp(min=torch.finfo(r.dtype).tiny)).clamp(max=1)


def _norm(x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, dim=tuple(range(1, x.ndim)), keepdim=True)
    return norm


BALLS: dict[str, type[LInf] | type[L2]] = {"linf": LInf, "l2": L2}

Move = Callable[[Tensor, Tensor, Tensor | float], Tensor]
"""From images (g, R, C, H, W), a direction like them, and the size of a step against it, to where that leads."""


def of_each(function: Callable[[Tensor], Tensor], groups: Tensor) -> Tensor:
    """What a function (n, C, H, W) -> (n, C, H, W) makes of the images of groups (g, R, C, H, W), one by one."""
    return function(groups.flatten(0, 1)).view_as(groups)


class Walk(Protocol):
    """The steps of one descent."""

    @property
    def size(self) -> Tensor | float:
        """Of the next step, in units of :attr:`PGD.step`: one for all groups, or one for each, (G,)."""

    def go(self, rows: Tensor, at: Tensor, values: Tensor, gradient: Tensor, move: Move) -> Tensor:
        """Where the groups ``rows`` go from ``at`` (g, R, C, H, W), given the objective's values (g,) and gradient."""


@dataclass
class FixedWalk:
    """A descent in steps whose sizes are known before."""

    sizes: Callable[[float], float]
    steps: int
    ball: Ball
    taken: int = 0

    @property
    def size(self) -> float:
        return self.sizes((self.taken + 0.5) / self.steps)

    def go(self, rows: Tensor, at: Tensor, values: Tensor, gradient: Tensor, move: Move) -> Tensor:
        reached = move(at, of_each(self.ball.direction, gradient), self.size)
        self.taken += 1
        return reached


MOMENTUM = 0.25
"""Share of the last move in the next."""

PAYING = 0.75
"""Share of the steps since a checkpoint that must lower the objective."""


class AdaptiveWalk:
    """A descent by Auto-PGD; each group has a state of its own, so that others do not change its course."""

    def __init__(self, images: Tensor, steps: int, ball: Ball) -> None:
        self.taken, self.checkpoints, self.ball = 0, checkpoints(steps), ball
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
        direction = of_each(self.ball.direction, gradient)
        reached = move(at, direction, self.size[rows])
        if self.taken:
            past = at - self.previous[rows]
            reached = move(at + (1 - MOMENTUM) * (reached - at) + MOMENTUM * past, direction, 0.0)
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


DECAYS = 0.9, 0.999
"""Of Adam's means of the gradient and of its square."""


class AdamWalk:
    """A descent by Adam; each group has means of its own, so that others do not change its course."""

    def __init__(self, images: Tensor, steps: int, ball: Ball) -> None:
        self.taken, self.steps, self.ball = 0, steps, ball
        self.mean, self.square = torch.zeros_like(images), torch.zeros_like(images)

    @property
    def size(self) -> float:
        return 1 - self.taken / self.steps

    def go(self, rows: Tensor, at: Tensor, values: Tensor, gradient: Tensor, move: Move) -> Tensor:
        for kept, new, decay in zip((self.mean, self.square), (gradient, gradient.square()), DECAYS, strict=True):
            kept[rows] = kept[rows].lerp(new, 1 - decay)
        mean, square = (
            kept[rows] / (1 - decay ** (self.taken + 1))
            for kept, decay in zip((self.mean, self.square), DECAYS, strict=True)
        )
        direction = mean / square.sqrt().clamp(min=torch.finfo(square.dtype).tiny)
        reached = move(at, of_each(self.ball.within, direction), self.size)
        self.taken += 1
        return reached
