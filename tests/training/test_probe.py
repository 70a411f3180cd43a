"""The quick look at an attacker's reach, against closed forms of linear embedders."""

import pytest
import torch
from torch import Generator, Tensor, nn

from holdfast.core.gallery import Gallery, Queries
from holdfast.core.pgd import L2, PGD, Ball, LInf
from holdfast.metrics.retrieval import evaluate
from holdfast.models.embedder import Embedder, EmbedderConfig
from holdfast.training.probe import BLOCK, adversary, shifted, shifted_recall

PIXELS = 9


class Line(nn.Module):
    """Images to their weighted sum of pixels, ``(B, 1, 3, 3) -> (B, 1)``: distances are exact by hand."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        weight = torch.randn(PIXELS, generator=Generator().manual_seed(seed), dtype=torch.float64)
        self.weight = nn.Parameter(weight * 10 / weight.abs().sum())

    @property
    def reach(self) -> float:
        """How far a change of every pixel by 1 can move the embedding."""
        return float(self.weight.detach().abs().sum())

    def images(self, places: list[float]) -> Tensor:
        """Images that are embedded at these places, grey and away from the ends of the pixel range."""
        direction = self.weight.detach().sign()[None] / self.reach
        return (0.5 + torch.tensor(places, dtype=torch.float64)[:, None] * direction).view(-1, 1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        centred = x.flatten(1).double() - 0.5
        return (centred * self.weight).sum(1, keepdim=True)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("ball", [LInf(0.05), L2(0.3)])
def test_the_adversary_can_cross_its_ball(ball: Ball) -> None:
    pgd = adversary(ball)
    assert pgd.ball == ball
    assert pgd.step * pgd.steps >= 2 * ball.eps
    assert 0 < pgd.start < ball.eps


@pytest.mark.parametrize("count", [1, BLOCK, BLOCK + 3])
def test_a_shift_in_the_infinity_ball_reaches_its_corner(count: int) -> None:
    embedder, eps = Line(), 0.05
    images = embedder.images(torch.linspace(-1, 1, count).tolist())
    moved = shifted(embedder, images, adversary(LInf(eps)), generator()) - embedder(images)
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, eps * embedder.reach))
    if count > 1:
        assert (moved > 0).any()
        assert (moved < 0).any()


def test_a_shift_in_the_euclidean_ball_follows_the_weights() -> None:
    embedder, eps = Line(), 0.3
    images = embedder.images([0.0, 0.5])
    moved = shifted(embedder, images, adversary(L2(eps)), generator()) - embedder(images)
    torch.testing.assert_close(
        moved.abs(), torch.full_like(moved, eps * float(embedder.weight.detach().norm())), rtol=1e-3, atol=0
    )


def test_no_radius_no_shift() -> None:
    embedder = Embedder(EmbedderConfig("c2f2", dim=8, channels=1, size=8))
    images = torch.rand(5, 1, 8, 8, generator=generator())
    z = shifted(embedder, images, adversary(LInf(0.0)), generator())
    assert torch.equal(z, embedder(images).detach())
    assert not z.requires_grad


def two_classes(embedder: Line) -> tuple[Tensor, Tensor, Tensor, Gallery]:
    """Twenty images near 0 and twenty near 1."""
    places = [0.001 * i for i in range(20)] + [1 + 0.001 * i for i in range(20)]
    images, labels = embedder.images(places), torch.arange(2).repeat_interleave(20)
    ids = torch.arange(40)
    return images, labels, ids, Gallery(embedder(images).detach(), labels, ids)


def test_recall_under_no_attack_is_the_clean_recall() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("c2f2", dim=8, channels=1, size=8))
    images, labels, ids = torch.rand(30, 1, 8, 8), torch.arange(10).repeat(3), torch.arange(100, 130)
    z = embedder(images).detach()
    gallery = Gallery(z, labels, ids)
    clean = evaluate(Queries(z, labels, ids), gallery)["R@1"]
    none = shifted_recall(embedder, images, labels, ids, gallery, pgd=adversary(LInf(0.0)), generator=generator())
    assert none == clean
    assert 0 < clean < 100


def test_a_larger_radius_never_helps_two_classes_on_a_line() -> None:
    embedder = Line()
    images, labels, ids, gallery = two_classes(embedder)
    recalls = [
        shifted_recall(
            embedder, images, labels, ids, gallery, pgd=adversary(LInf(shift / embedder.reach)), generator=generator()
        )
        for shift in (0.0, 0.3, 0.6, 0.9)
    ]
    assert recalls == sorted(recalls, reverse=True)
    assert recalls[:2] == [100, 100]
    assert recalls[-1] < 80


def test_an_image_is_not_its_own_answer() -> None:
    embedder = Line()
    images, labels, ids = embedder.images([0, 1, 0.1, 1.1]), torch.tensor([0, 0, 1, 1]), torch.arange(4)
    gallery = Gallery(embedder(images).detach(), labels, ids)
    pgd = adversary(LInf(0.01 / embedder.reach))
    assert shifted_recall(embedder, images, labels, ids, gallery, pgd=pgd, generator=generator()) == 0


def test_the_same_seed_finds_the_same() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("c2f2", dim=8, channels=1, size=8))
    images, pgd = torch.rand(12, 1, 8, 8), adversary(LInf(0.05))
    first, again, other = (shifted(embedder, images, pgd, generator(i)) for i in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_embedder_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig("resnet18", dim=4, channels=1, size=8))
    embedder.backbone.get_submodule("layer2").eval()
    first = next(embedder.parameters()).requires_grad_(False)
    modes = [module.training for module in embedder.modules()]
    state = {name: tensor.clone() for name, tensor in embedder.state_dict().items()}
    images, labels, ids = torch.rand(8, 1, 8, 8), torch.arange(2).repeat(4), torch.arange(8)

    pgd = PGD(LInf(0.05), 0.02, 2, start=0.01)
    z = shifted(embedder, images, pgd, generator())
    shifted_recall(embedder, images, labels, ids, Gallery(z, labels, ids), pgd=pgd, generator=generator())

    assert [module.training for module in embedder.modules()] == modes
    assert [p for p in embedder.parameters() if not p.requires_grad] == [first]
    assert all(p.grad is None for p in embedder.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in embedder.state_dict().items())
