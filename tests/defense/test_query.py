"""Hardness manipulation of queries alone: the step against one written out image by image."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from holdfast.core.pgd import PGD
from holdfast.core.samplers import EmbeddedBatch
from holdfast.core.steps import LInf
from holdfast.defense.base import Defense
from holdfast.defense.recipes import parse_recipe

EPS, SIZE, STEPS, MARGIN, WEIGHT = 0.08, 0.03, 4, 0.2, 0.5
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 0, 0, 1, 1, 2, 2])


class Net(nn.Module):
    """A small network to the unit sphere, in float64."""

    def __init__(self, batchnorm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        norm = nn.BatchNorm2d(6) if batchnorm else nn.Identity()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, 2), norm, nn.ReLU(), nn.Conv2d(6, 6, 2), nn.ReLU())
        self.head = nn.Linear(24, 8)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return normalize(self.head(self.body(x).flatten(1)), dim=1)


@pytest.fixture
def images() -> Tensor:
    """Classes that overlap, so that some queries are past the destination and others are not."""
    generator = torch.Generator().manual_seed(2)
    classes = torch.rand(3, 1, 8, 8, generator=generator, dtype=torch.float64)
    return (classes[LABELS] + 0.25 * torch.rand(12, 1, 8, 8, generator=generator, dtype=torch.float64)).clamp(0, 1)


def built(name: str) -> Defense:
    return parse_recipe(name).build(PGD(LInf(EPS), SIZE, STEPS))


def naive_loss(net: nn.Module, images: Tensor, destination: float) -> tuple[Tensor, int]:
    """Query by query: its nearest match and nearest other, one image perturbed, both terms; how many were moved."""
    terms, moved = [], 0
    for i, image in enumerate(images):
        clean = net(images)
        gap = (clean - clean[i]).norm(dim=1).detach()
        same = [j for j in range(len(images)) if j != i and LABELS[j] == LABELS[i]]
        other = [j for j in range(len(images)) if LABELS[j] != LABELS[i]]
        p, n = min(same, key=lambda j: float(gap[j])), min(other, key=lambda j: float(gap[j]))
        x = image.clone()
        for _ in range(STEPS):
            x = x.detach().requires_grad_()
            z = net(x[None])[0]
            short = destination - (z - clean[p].detach()).norm() + (z - clean[n].detach()).norm()
            if short <= 0:
                break
            (gradient,) = torch.autograd.grad(short, x)
            x = (x - SIZE * gradient.sign()).clamp(image - EPS, image + EPS).clamp(0, 1)
        moved += int(not torch.equal(x.detach(), image))
        z = net(x.detach()[None])[0]
        triplet = ((z - clean[p]).norm() - (z - clean[n]).norm() + MARGIN).clamp(min=0)
        structure = ((clean[i] - z).norm() - (clean[i] - clean[p]).norm()).clamp(min=0)
        terms.append(triplet + WEIGHT * structure)
    return torch.stack(terms).mean(), moved


@pytest.mark.parametrize("destination", [-0.1, 0.05])
def test_the_step_is_the_naive_one(destination: float, images: Tensor) -> None:
    net = Net().eval()
    twin = copy.deepcopy(net)
    step = built(f"hmq-e-{destination}-ics")(net, images, LABELS)
    step.loss.backward()
    loss, moved = naive_loss(twin, images, destination)
    loss.backward()  # type: ignore[no-untyped-call]
    assert step.loss.item() == pytest.approx(loss.item(), abs=1e-12)
    assert 0 < moved < 12 or destination > 0
    assert step.logs["moved"].item() == pytest.approx(moved / 12)
    for mine, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-10)


def test_each_image_is_a_query_once_and_passes_through_as_such(images: Tensor) -> None:
    """Where each is embedded by itself: the batch, a pass for each step of each image, and what has moved."""
    step = built("hmq-e-2-ics")(Net().eval(), images, LABELS)
    assert step.logs["moved"] == 1
    assert step.logs["passes"] == 12 + 12 * STEPS + 12


def test_named_anchors_change_nothing(images: Tensor) -> None:
    steps = [built("hmq-e-lga-ics")(Net().eval(), images, LABELS, anchors) for anchors in (None, torch.tensor([1, 5]))]
    assert steps[0].loss == steps[1].loss


@pytest.mark.parametrize("name", ["hmq-e-lga-ics", "hmq-s-0"])
def test_statistics_of_the_batch(name: str, images: Tensor) -> None:
    net = Net(batchnorm=True)
    step = built(name)(net, images, LABELS)
    step.loss.backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in net.parameters())
    assert net.training


def test_a_batch_with_every_image_an_anchor() -> None:
    z = normalize(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    batch = EmbeddedBatch.of(z, LABELS, torch.tensor([0])).of_every_image()
    assert batch.anchors.tolist() == list(range(12))
    assert batch.same.sum() == 12 * 3
