"""Adam against torch's own, one image at a time."""

import pytest
import torch
from torch import Tensor

from holdfast.core.pgd import PGD, Adam
from holdfast.core.steps import BALLS
from tests.core.test_pgd import ConvNet, Total, linear, uniform


def naive(net: ConvNet, image: Tensor, *, norm: str, eps: float, step: float, steps: int) -> Tensor:
    """One image (1, C, H, W): each step of torch's optimiser is cut off and scaled, from where the image stands."""
    x, start = image.clone().requires_grad_(), image.clone()
    optimiser = torch.optim.Adam([x], lr=1.0, eps=1e-30)
    for i in range(steps):
        (x.grad,) = torch.autograd.grad(net(x).sum(), x)
        before = x.detach().clone()
        optimiser.step()
        way = x.detach() - before
        way = way.clamp(-1, 1) if norm == "linf" else way / max(1.0, float(way.norm()))
        r = before + step * (1 - i / steps) * way - start
        r = r.clamp(-eps, eps) if norm == "linf" else r * min(1.0, eps / max(float(r.norm()), 1e-30))
        with torch.no_grad():
            x.copy_((start + r).clamp(0, 1))
    return x.detach()


@pytest.mark.parametrize(("norm", "eps", "step"), [("linf", 0.1, 0.02), ("l2", 0.7, 0.1)])
@pytest.mark.parametrize("steps", [1, 25])
def test_every_group_goes_the_way_of_torchs_adam(norm: str, eps: float, step: float, steps: int) -> None:
    net, images = ConvNet().double(), uniform(6, 2, 1, 8, 8).double()
    got = PGD(BALLS[norm](eps), step, steps, schedule=Adam())(net, images, Total())
    for image, adversarial in zip(images.flatten(0, 1)[:, None], got.flatten(0, 1)[:, None], strict=True):
        expected = naive(net, image, norm=norm, eps=eps, step=step, steps=steps)
        torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pixels_without_a_gradient_stay(norm: str) -> None:
    weight, images = torch.zeros(16, 3), uniform(2, 1, 1, 4, 4, low=0.4, high=0.6)
    weight[:5] = 1.0
    got = PGD(BALLS[norm](0.1), 0.05, 6, schedule=Adam())(linear(weight), images, Total())
    moved = (got - images).flatten(1) != 0
    assert moved[:, :5].all()
    assert not moved[:, 5:].any()
