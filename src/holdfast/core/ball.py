"""The perturbations that are allowed: balls around an image, by their norm."""

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
