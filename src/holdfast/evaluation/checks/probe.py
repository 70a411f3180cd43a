"""Queries on trial: attacked as the checks of an evaluation need it, each attack carried out once."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from holdfast.attacks import ATTACKS
from holdfast.attacks.base import Attacked
from holdfast.core.gallery import Queries
from holdfast.core.gradients import Square
from holdfast.core.pgd import PGD, crossing
from holdfast.core.steps import BALLS
from holdfast.evaluation.robust.draws import AVERAGED
from holdfast.evaluation.runner import Runner, Target, attack_batch
from holdfast.evaluation.settings import AttackSettings
from holdfast.metrics.collapse import collapsed, gauges

STEPS = 5
"""Steps of the probe; the strong probe takes twice as many, from two places."""

SQUARE_STEPS = 3
"""Steps of Square for each step of a descent with gradients."""

CHANGE = 1e-2
"""How much of a distance small steps change: little beside 1, much beside rounding, even that of bfloat16."""


def probe_steps(resolved: AttackSettings) -> int:
    """Steps of the probe: no more than the attacks have."""
    return max(1, min(resolved.steps, STEPS))


@dataclass(frozen=True, eq=False)
class Probe:
    """Queries under attack, and what the checks share. ``outside``: how far each attack left its bounds. ``surrogate``:
    what the attacks asked for see in place of the target; see :func:`.attack_batch`."""

    target: Target
    resolved: AttackSettings
    rows: Tensor
    surrogate: Target | None = None
    outside: list[float] = field(default_factory=list)

    @cached_property
    def queries(self) -> Queries:
        return self.target.system.queries.take(self.rows)

    @property
    def differentiable(self) -> bool:
        return self.target.model.differentiable

    @cached_property
    def collapsed(self) -> bool:
        gallery = self.target.system.gallery
        return collapsed(gauges(gallery.embeddings), len(torch.unique(gallery.labels)))

    @property
    def obstacle(self) -> str:
        """Why nothing can be said of the gradients; empty where something can."""
        if not self.differentiable:
            return "no gradient reaches the pixels of this model"
        return "the model is collapsed, so that its embeddings hardly change" if self.collapsed else ""

    @property
    def meaning(self) -> str:
        """What it means that the probe is beaten."""
        cause = "the gradient is masked" if self.differentiable else "attacks without gradients are too weak here"
        return f"{cause}: the scores overstate robustness"

    @property
    def radius(self) -> float:
        """The ball's, or where that is zero something small."""
        return self.resolved.eps or 0.01

    @property
    def limit(self) -> float:
        """The radius that any image can be reached with."""
        pixels = self.target.pixels
        return 1.0 if self.resolved.norm == "linf" else math.sqrt(pixels.channels * pixels.size**2)

    @property
    def steps(self) -> int:
        return probe_steps(self.resolved)

    @property
    def draws(self) -> int:
        """Over how many draws of the model its attacks average."""
        return AVERAGED if self.target.model.random else 1

    def descent(self, eps: float, steps: int, restarts: int = 0) -> PGD:
        """The probe's: the best iterate, in steps that lead two and a half times across the radius."""
        if not self.differentiable:
            return self.square(eps, steps, restarts)
        ball, step = BALLS[self.resolved.norm](eps), crossing(eps, steps)
        return PGD(ball, step, steps, best=True, restarts=restarts, draws=self.draws)

    def square(self, eps: float, steps: int, restarts: int = 0) -> PGD:
        """Square, which needs more steps than a descent with gradients."""
        ball = BALLS[self.resolved.norm](eps)
        return PGD(
            ball, 2 * eps, SQUARE_STEPS * steps, gradient=Square(), best=True, restarts=restarts, draws=self.draws
        )

    def attack(self, name: str, pgd: PGD, part: slice = slice(None), surrogate: Target | None = None) -> Attacked:
        attack, rows = ATTACKS[name], self.rows[part]
        generators = Runner("checks", attack, pgd, rows, self.resolved.seed).generators(self.target, rows)
        attacked = attack_batch(attack, self.target, rows, pgd, generators=generators, surrogate=surrogate)
        moved = pgd.ball.norm(attacked.images - attacked.clean).amax()
        low, high = attacked.images.aminmax()
        beyond = (moved.item() - pgd.ball.eps) / max(1, pgd.ball.eps)
        self.outside.append(max(beyond, -low.item(), high.item() - 1))
        return attacked

    @cached_property
    def strong(self) -> Attacked:
        """By the probe with twice the steps, and again from a random point."""
        return self.attack("ltm", self.descent(self.resolved.eps, 2 * self.steps, restarts=1))

    def objective(self, name: str, z: Tensor) -> Tensor:
        """An attack's objective for the queries with embeddings ``z`` (n, D), (n,)."""
        plan = ATTACKS[name].plan(self.queries, self.target.system, self.rows.new_empty((len(z), 0)))
        return plan.objective(z[:, None], torch.arange(len(z), device=z.device))

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (n, D), without gradient."""
        with torch.no_grad(), self.target.model.seeded(0):
            return self.target.model(images)

    def ltm(self, images: Tensor) -> Tensor:
        """LTM's objective for the queries as such images, (n,)."""
        return self.objective("ltm", self.embed(images))

    @cached_property
    def near(self) -> Tensor:
        """The images with noise of a tenth of the radius; steps of a twentieth stay in the pixel range."""
        noise = PGD(BALLS[self.resolved.norm](0.1 * self.radius), 0, 0, start=0.1 * self.radius)
        return self.attack("ltm", noise).images.clamp(self.stride, 1 - self.stride)

    @property
    def stride(self) -> float:
        return min(0.05 * self.radius, 0.1)

    @cached_property
    def slopes(self) -> dict[str, Tensor]:
        """The gradients of the objectives of ES and LTM at :attr:`near`, like the images."""
        pixels = self.near.clone().requires_grad_()
        with torch.enable_grad(), self.target.model.seeded(0):
            z = self.target.model(pixels)
            values = {name: self.objective(name, z).sum() for name in ("es", "ltm")}
        return {name: torch.autograd.grad(value, pixels, retain_graph=True)[0] for name, value in values.items()}

    @cached_property
    def pull(self) -> Tensor:
        """The gradient of LTM's objective for the embeddings at :attr:`near`, (n, D)."""
        z = self.embed(self.near).requires_grad_()
        with torch.enable_grad():
            value = self.objective("ltm", z).sum()
        return torch.autograd.grad(value, z)[0]


def attackable(target: Target, rows: Tensor) -> Tensor:
    """The rows of queries that the gallery holds a match and a non-match of."""
    queries, items = target.system.queries.take(rows), target.system.items
    same = queries.labels[:, None] == items.labels
    return rows[(same & ~items.own(queries.ids)).any(1) & ~same.all(1)]
