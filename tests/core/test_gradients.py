"""NES and Square: what they estimate, what they change, and that they only ask for embeddings."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor, nn

from holdfast.core.gradients import HALVINGS, NES, BackPropagation, Generators, Gradient, Iterate, Square
from holdfast.core.pgd import PGD, rounded
from holdfast.core.steps import BALLS, L2, Ball, LInf
from tests.oracles.attacks import generators

EPS = 0.05


@dataclass(frozen=True)
class First:
    """The first coordinate of a group's only embedding."""

    floor: float = -torch.inf

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return z[:, 0, 0]


@dataclass(frozen=True)
class Watched:
    """A gradient that keeps the iterates it was asked about, and their values."""

    gradient: Gradient
    images: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def __call__(self, at: Iterate, generators: Generators) -> tuple[Tensor, Tensor]:
        values, gradient = self.gradient(at, generators)
        self.images.append(at.images)
        self.values.append(values)
        return values, gradient


def grey(count: int = 4, channels: int = 1, size: int = 8) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return 0.3 + 0.4 * torch.rand(count, 1, channels, size, size, generator=draw)


def smooth() -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3)).eval().requires_grad_(False)
    return net


def unseen(x: Tensor) -> Tensor:
    """An embedder that hands out numbers only."""
    with torch.no_grad():
        return NET(x)  # type: ignore[no-any-return]


NET = smooth()


def standing(images: Tensor, value: Callable[[Tensor], Tensor], progress: float = 0.0) -> Iterate:
    return Iterate(images, value, lambda direction: (images - EPS * direction).clamp(0, 1), -torch.inf, progress)


# ---- NES ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [25, 400])
def test_nes_estimates_the_gradient(pairs: int) -> None:
    """Of n Gaussian directions in d dimensions remain the gradient, and noise of (d - 1) / n of its squared size.

    So the cosine is about 1 / sqrt(1 + (d - 1) / n); the bound allows five standard deviations of both parts.
    """
    images, dims = grey(8), 64
    at = standing(images, lambda x: First()(NET(x[:, 0])[:, None], torch.arange(len(x))))
    values, estimated = NES(pairs)(at, generators(8))
    exact_values, exact = BackPropagation()(at, None)
    torch.testing.assert_close(values, exact_values)
    along = (estimated * exact).flatten(1).sum(1) / exact.flatten(1).norm(dim=1)
    size = exact.flatten(1).norm(dim=1)
    spread = 5 * math.sqrt(2 / pairs)
    assert ((along / size - 1).abs() < spread).all()
    noise = (dims - 1 + 5 * math.sqrt(2 * (dims - 1))) / pairs * (1 + spread)
    least = max(0.0, 1 - spread) / math.sqrt(max(0.0, 1 - spread) ** 2 + noise)
    assert (along / estimated.flatten(1).norm(dim=1) > least).all()
    assert least > 0.7 or pairs == 25


def test_nes_asks_for_pixels_only_in_their_range() -> None:
    def embed(x: Tensor) -> Tensor:
        assert x.min() >= 0
        assert x.max() <= 1
        return unseen(x)

    dark = torch.zeros(2, 1, 1, 8, 8)
    PGD(LInf(EPS), EPS / 2, 2, gradient=NES(5, sigma=0.5))(embed, dark, First())


# ---- Square ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ball", list(BALLS))
def test_square_only_ever_lowers_the_objective_inside_the_ball(ball: str) -> None:
    images, watched = grey(6, channels=1), Watched(Square())
    eps = EPS if ball == "linf" else 0.5
    step = 2 * eps if ball == "linf" else eps / 4
    got = PGD(BALLS[ball](eps), step, 60, gradient=watched)(unseen, images, First(), generator=generators(6))
    course = torch.stack([*watched.values, NET(got[:, 0])[:, 0]])
    assert (course[1:] <= course[:-1] + 1e-6).all()
    falls = course[1:] < course[:-1] - 1e-6
    assert (falls.sum(0) >= 3).all()
    assert not falls.all(0).any()
    moved = (got - images).flatten(1).norm(dim=1, p=2 if ball == "l2" else torch.inf)
    assert (moved <= eps + 1e-6).all()


def test_square_changes_one_square_at_a_time_to_the_edge_of_the_ball() -> None:
    images, watched = grey(6, channels=2), Watched(Square())
    net = nn.Sequential(nn.Flatten(), nn.Linear(128, 3)).requires_grad_(False)
    PGD(LInf(EPS), 2 * EPS, 40, gradient=watched)(net, images, First(), generator=generators(6))
    changes = 0
    for before, after in zip(watched.images[:-1], watched.images[1:], strict=True):
        for one, other, clean in zip(before[:, 0], after[:, 0], images[:, 0], strict=True):
            changed = (one - other).abs() > 1e-6
            changes += bool(changed.any())
            rows, columns = changed.any(0).any(1).nonzero(), changed.any(0).any(0).nonzero()
            if changed.any():
                assert max(rows.max() - rows.min(), columns.max() - columns.min()) < 4
            for channel in range(2):
                r = (other - clean)[channel][changed[channel]]
                torch.testing.assert_close(r.abs(), torch.full_like(r, EPS), rtol=0, atol=1e-6)
                assert len(set(r.sign().tolist())) <= 1
    assert changes > 20


def squares(progress: float, share: float = 0.3, size: int = 8, count: int = 60) -> Tensor:
    """Directions of a first visit, where everything lowers the objective."""
    falling = iter((torch.ones(count), torch.zeros(count)))
    at = standing(grey(count, channels=2, size=size), lambda x: next(falling), progress)
    return Square(share)(at, generators(count, 7))[1][:, 0]


def test_squares_lie_anywhere_with_a_sign_per_channel() -> None:
    found = squares(0)
    corners = set()
    for direction in found:
        inside = direction != 0
        assert torch.equal(inside[0], inside[1])
        rows, columns = inside[0].any(1).nonzero()[:, 0], inside[0].any(0).nonzero()[:, 0]
        assert int(inside[0].sum()) == len(rows) * len(columns) == 16
        assert len(rows) == len(columns)
        assert rows.tolist() == list(range(int(rows[0]), int(rows[0]) + 4))
        assert all(len(set(direction[channel][inside[channel]].tolist())) == 1 for channel in range(2))
        corners.add((int(rows[0]), int(columns[0])))
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(5))
    signs = {tuple(direction.flatten(1).sum(1).sign().tolist()) for direction in found}
    assert signs == {(1, 1), (1, -1), (-1, 1), (-1, -1)}


def test_squares_get_smaller_on_the_schedule() -> None:
    """The area halves at each of the authors' points."""
    for i, progress in enumerate((0, *(point + 1e-6 for point in HALVINGS))):
        areas = {int((direction[0] != 0).sum()) for direction in squares(progress, size=32, count=4)}
        assert areas == {max(1, round(math.sqrt(0.3 * 32 * 32 / 2**i))) ** 2}
    assert {int((direction[0] != 0).sum()) for direction in squares(0, share=1.0, count=4)} == {64}


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 1, 5), (1, 7, 1), (3, 4, 6)])
def test_square_takes_images_of_any_shape(shape: tuple[int, int, int]) -> None:
    images = torch.full((3, 1, *shape), 0.5)
    got = PGD(LInf(EPS), 2 * EPS, 20, gradient=Square())(
        lambda x: x.flatten(1).sum(1, keepdim=True), images, First(), generator=generators(3)
    )
    assert (got < images).flatten(1).any(1).all()


# ---- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ball", [LInf(EPS), L2(0.4)])
@pytest.mark.parametrize(("gradient", "share"), [(NES(), 0.5), (Square(), 0.1)])
def test_a_black_box_needs_no_gradient_and_lowers_the_objective(
    gradient: Gradient, share: float, ball: LInf | L2
) -> None:
    """By a fair share of what back-propagation does, and by no more. (No square fits a network of random weights.)"""
    images = grey(6)
    step = 2 * EPS if isinstance(gradient, Square) and isinstance(ball, LInf) else ball.eps / 5
    with pytest.raises(RuntimeError, match="grad"):
        PGD(ball, step, 1)(unseen, images, First())

    def value(x: Tensor) -> Tensor:
        return unseen(x[:, 0])[:, 0]

    got = PGD(ball, step, 30, gradient=gradient, best=True)(unseen, images, First(), generator=generators(6))
    bound = PGD(ball, ball.eps / 10, 30, best=True)(NET, images, First())
    fall, deepest = value(images) - value(got), value(images) - value(bound)
    assert (fall > share * deepest).all()
    assert (fall <= deepest + 1e-4).all()
    assert (got - images).flatten(1).norm(dim=1, p=torch.inf if isinstance(ball, LInf) else 2).max() <= ball.eps + 1e-6
    assert not got.requires_grad


# ---- model queries, and images of eight bits ------------------------------------------------------------------------


@dataclass(frozen=True)
class Forgetful:
    """Square that is told nothing, and notes nothing."""

    def __call__(self, at: Iterate, generators: Generators) -> tuple[Tensor, Tensor]:
        return Square()(replace(at, known=None, ahead=None), generators)


@pytest.mark.parametrize("start", [0.0, EPS])
def test_square_asks_once_a_step_and_goes_where_it_went(start: float) -> None:
    """Once more where the objective of the first images is not known; the way is that of who asks twice a step."""
    images, asked = grey(6), [0]

    def embed(x: Tensor) -> Tensor:
        asked[0] += len(x)
        return unseen(x)

    clean = NET(images[:, 0])[:, None]
    pgd = PGD(LInf(EPS), 2 * EPS, 20, start=start, gradient=Square(), best=True)
    got = pgd(embed, images, First(), clean=clean, generator=generators(6))
    assert asked[0] == 6 * (20 + (start > 0))
    twice = replace(pgd, gradient=Forgetful())(unseen, images, First(), clean=clean, generator=generators(6))
    torch.testing.assert_close(got, twice)


@pytest.mark.parametrize("draws", [1, 3])
def test_nes_asks_twice_a_pair_and_once_for_where_it_stands(draws: int) -> None:
    images, asked = grey(6), [0]

    def embed(x: Tensor) -> Tensor:
        asked[0] += len(x)
        return unseen(x)

    PGD(LInf(EPS), EPS / 2, 4, gradient=NES(5), best=True, draws=draws)(embed, images, First())
    assert asked[0] == 6 * draws * (4 * NES(5).queries + 1)


@pytest.mark.parametrize("gradient", [Square(), NES(4)])
@pytest.mark.parametrize("ball", [LInf(0.03), LInf(2 / 255), LInf(0.003), L2(0.3)])
@pytest.mark.parametrize("scale", [None, torch.tensor([0.3, 1.0, 1.7, 0.01])])
def test_images_of_eight_bits_are_in_the_ball(gradient: Gradient, ball: Ball, scale: Tensor | None) -> None:
    """All that is asked for has pixels of n / 255. What Square asks for, and what is found, is in the ball."""
    images = (grey(4) * 255).round() / 255
    times = torch.ones(4) if scale is None else scale
    seen = []

    def embed(x: Tensor) -> Tensor:
        seen.append(x)
        return unseen(x)

    pgd = PGD(ball, 2 * ball.eps, 12, gradient=gradient, best=True, eight_bits=True)
    got = pgd(embed, images, First(), generator=generators(4), scale=scale)[:, 0]
    sent = [*seen, rounded(got, images[:, 0], ball, times.view(-1, 1, 1, 1))]
    for one in sent:
        torch.testing.assert_close(one * 255, (one * 255).round(), atol=1e-3, rtol=0)
        assert (one.min() >= 0) & (one.max() <= 1)
        if isinstance(gradient, Square):
            assert (ball.norm(one - images[:, 0]) <= ball.eps * times + 2e-6).all()
    assert (ball.norm(sent[-1] - images[:, 0]) <= ball.eps * times + 2e-6).all()
