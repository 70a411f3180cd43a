"""Auto-PGD against a twin that treats one group at a time, as the paper has it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from holdfast.core.gradients import random_like
from holdfast.core.pgd import PGD, Adaptive
from holdfast.core.steps import BALLS, checkpoints
from tests.core.test_pgd import ConvNet, Total, linear, uniform


def naive(value: Callable[[Tensor], Tensor], image: Tensor, *, norm: str, eps: float, steps: int) -> Tensor:
    """One image (1, C, H, W), by Algorithm 1 of Croce & Hein (ICML 2020), for a value to be lowered."""

    def inside(x: Tensor) -> Tensor:
        r = x - image
        r = r.clamp(-eps, eps) if norm == "linf" else r * min(1.0, eps / max(float(r.norm()), 1e-30))
        return (image + r).clamp(0, 1)

    def slope(x: Tensor) -> tuple[float, Tensor]:
        x = x.clone().requires_grad_()
        found = value(x)
        (gradient,) = torch.autograd.grad(found, x)
        return found.item(), gradient.sign() if norm == "linf" else gradient / gradient.norm()

    marks, last = [0], 0.22
    place, span = int(last * steps), int(last * steps)
    while place < steps:
        marks.append(place)
        span = max(span - max(1, int(0.03 * steps)), int(0.06 * steps), 1)
        place += span
    size, x, before, course = 2 * eps, image, image, []
    best, lowest, way = image, float("inf"), torch.zeros_like(image)
    at_last_mark, was_halved = float("inf"), True
    for i in range(steps):
        found, direction = slope(x)
        course.append(found)
        if found < lowest:
            best, lowest, way = x, found, direction
        if i in marks[1:]:
            since = i - marks[marks.index(i) - 1]
            fell = sum(course[j] < course[j - 1] for j in range(i - since + 1, i + 1))
            halve = fell < 0.75 * since or (not was_halved and lowest >= at_last_mark)
            if halve:
                size, x, direction, before = size / 2, best, way, best
            was_halved, at_last_mark = halve, lowest
        z = inside(x - size * direction)
        x, before = (z if i == 0 else inside(x + 0.75 * (z - x) + 0.25 * (x - before))), x
    found, _ = slope(x)
    return x if found < lowest else best


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.7)])
@pytest.mark.parametrize("steps", [1, 7, 40])
def test_every_group_goes_the_way_it_would_go_alone(norm: str, eps: float, steps: int) -> None:
    net, images = ConvNet().double(), uniform(6, 1, 1, 8, 8).double()
    pgd = PGD(BALLS[norm](eps), 2 * eps, steps, schedule=Adaptive(), best=True)
    got = pgd(net, images, Total())
    for image, adversarial in zip(images, got, strict=True):
        expected = naive(lambda x: net(x).sum(), image, norm=norm, eps=eps, steps=steps)
        torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-6)


def test_steps_are_halved_where_they_do_not_pay() -> None:
    """A step of twice the radius swings across the optimum of a curved objective; steps of that size alone stay off."""
    images, target = torch.full((1, 1, 1, 4, 4), 0.5), uniform(16, low=0.45, high=0.55)

    def away(x: Tensor) -> Tensor:
        return (x.flatten(1) - target).abs()

    constant, adaptive = (
        PGD(BALLS["linf"](0.1), 0.2, 100, best=True),
        PGD(BALLS["linf"](0.1), 0.2, 100, schedule=Adaptive(), best=True),
    )
    assert away(adaptive(away, images, Total())[0]).sum() < 0.2 * away(constant(away, images, Total())[0]).sum()


def test_a_descent_starts_where_it_is_told_and_stays_around_the_image() -> None:
    weight, images = uniform(16, 3, low=-1), uniform(2, 1, 1, 4, 4, low=0.4, high=0.6)
    noise = random_like(torch.rand, images, torch.Generator().manual_seed(0)) * 0.05
    seen: list[Tensor] = []

    def embed(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return linear(weight)(x)

    got = PGD(BALLS["linf"](0.1), 0.2, 5, schedule=Adaptive(), best=True)(
        embed, images, Total(), initial=images + noise
    )
    assert torch.equal(seen[0], (images + noise).flatten(0, 1))
    assert (got - images).abs().max() <= 0.1 + 1e-6


def test_checkpoints_are_those_of_the_paper() -> None:
    assert checkpoints(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert checkpoints(1) == {}
