"""The perturbation loop: closed forms, its limits, and that leaving finished groups alone changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize

from holdfast.goals import CollapsePair, RaiseHardness, ShiftEmbedding
from holdfast.perturb import BALLS, L2, PGD, LInf
from holdfast.triplets import hardness

EPS, STEP, STEPS = 8 / 255, 2 / 255, 8


class ConvNet(nn.Module):
    """A small smooth embedder that counts the images it sees."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(72, 8)
        )
        self.seen = 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return normalize(self.body(x), dim=1)


@dataclass(frozen=True)
class Total:
    """The sum of a group's embeddings, unbounded below."""

    floor: float = -torch.inf

    def __call__(self, z: Tensor, rows: Tensor) -> Tensor:
        return z.flatten(1).sum(dim=1)


def uniform(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def linear(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: x.flatten(1) @ weight


def triplets_at_mixed_hardness(count: int = 24) -> tuple[ConvNet, Tensor, Tensor, Tensor]:
    """Triplets of which some begin beyond their destination, some reach it soon, and some never."""
    net, images = ConvNet(), uniform(count, 3, 1, 8, 8)
    with torch.no_grad():
        clean = net(images.flatten(0, 1)).view(count, 3, -1)
    destination = hardness(clean) + uniform(count, seed=1, low=-0.1, high=0.3)
    net.seen = 0
    return net, images, clean, destination


def embed_triplets(net: ConvNet, images: Tensor) -> Tensor:
    with torch.no_grad():
        z: Tensor = net(images.flatten(0, 1))
    return z.view(*images.shape[:2], -1)


def naive(net: ConvNet, images: Tensor, destination: Tensor) -> list[Tensor]:
    return oracles.pgd(
        net, images, lambda z, i: oracles.shortfall(z, destination[i].item()), eps=EPS, step=STEP, steps=STEPS
    )


def test_linf_reaches_the_optimum_of_a_linear_objective() -> None:
    weight = uniform(16, 3, low=-1)
    images = uniform(5, 2, 1, 4, 4, seed=1)
    got = PGD(LInf(0.1), 0.03, 10)(linear(weight), images, Total())
    optimum = (images - 0.1 * weight.sum(dim=1).sign().view(1, 4, 4)).clamp(0, 1)
    torch.testing.assert_close(got, optimum, rtol=0, atol=1e-6)


def test_l2_reaches_the_optimum_of_a_linear_objective() -> None:
    weight = uniform(16, 3, low=-1)
    images = uniform(5, 2, 1, 4, 4, seed=1, low=0.4, high=0.6)
    r = PGD(L2(0.3), 0.07, 10)(linear(weight), images, Total()) - images
    optimum = -0.3 * normalize(weight.sum(dim=1), dim=0).view(1, 4, 4)
    assert ((r - optimum).flatten(2).norm(dim=2) / 0.3).max() < 0.01


def test_the_random_start_does_not_keep_from_the_optimum() -> None:
    weight = uniform(16, 3, low=-1)
    images = uniform(5, 2, 1, 4, 4, seed=1)
    got = PGD(LInf(0.1), 0.03, 10, start=0.1)(linear(weight), images, Total())
    torch.testing.assert_close(got, (images - 0.1 * weight.sum(dim=1).sign().view(1, 4, 4)).clamp(0, 1))


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(list(BALLS)), st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 4), st.sampled_from([0, 0.3, 2])
)
def test_ball_and_pixel_range_hold(ball: str, eps: float, step: float, steps: int, start: float) -> None:
    images = uniform(3, 2, 1, 8, 8).round(decimals=1)
    pgd = PGD(BALLS[ball](eps), step, steps, start)
    got = pgd(ConvNet(), images, Total(), generator=torch.Generator().manual_seed(0))
    r = (got - images).flatten(2)
    assert r.norm(dim=2, p=2 if ball == "l2" else torch.inf).max() <= eps + 1e-6
    assert got.min() >= 0
    assert got.max() <= 1
    if steps and min(step, eps) > 1e-3:
        assert r.any()


def test_the_random_start_is_seeded() -> None:
    images, pgd = uniform(2, 2, 1, 8, 8), PGD(LInf(EPS), STEP, 0, start=EPS)
    one, again, other = (pgd(ConvNet(), images, Total(), generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, images)
    assert (one - images).abs().max() <= EPS + 1e-6


@pytest.mark.parametrize("ball", list(BALLS))
def test_the_random_start_lies_within_its_radius(ball: str) -> None:
    """In the norm of the ball, so that a start of one step is no farther than a step."""
    images = uniform(2, 2, 1, 32, 32, low=0.4, high=0.6)
    r = PGD(BALLS[ball](0.5), 0.1, 0, start=0.1)(ConvNet(), images, Total()) - images
    size = r.flatten(2).norm(dim=2, p=2 if ball == "l2" else torch.inf)
    assert size.max() <= 0.1 + 1e-6
    assert size.min() > 0.05


def test_no_steps_return_the_images() -> None:
    images = uniform(2, 2, 1, 8, 8)
    got = PGD(LInf(EPS), STEP, 0)(ConvNet(), images, Total())
    assert torch.equal(got, images)
    assert got is not images


def test_gradients_are_taken_where_the_caller_takes_none() -> None:
    images, pgd = uniform(2, 2, 1, 8, 8), PGD(LInf(EPS), STEP, 2)
    with torch.no_grad():
        got = pgd(ConvNet(), images, Total())
    assert torch.equal(got, pgd(ConvNet(), images, Total()))
    assert not torch.equal(got, images)


def test_each_step_passes_every_unfinished_image_once() -> None:
    net, images = ConvNet(), uniform(3, 2, 1, 8, 8)
    before = images.clone()
    PGD(LInf(EPS), STEP, 5)(net, images, Total())
    assert net.seen == 5 * 3 * 2
    assert torch.equal(images, before)


@pytest.mark.parametrize("given_clean", [False, True])
def test_the_working_set_changes_nothing_and_saves_passes(given_clean: bool) -> None:
    net, images, clean, destination = triplets_at_mixed_hardness()
    pgd = PGD(LInf(EPS), STEP, STEPS)
    got = pgd(net, images, RaiseHardness(destination), clean=clean if given_clean else None)
    seen = net.seen
    expected = naive(net, images, destination)[-1]
    reached = hardness(embed_triplets(net, got))
    torch.testing.assert_close(reached, hardness(embed_triplets(net, expected)), rtol=0, atol=1e-5)
    assert ((got - expected).abs() > 1e-6).float().mean() <= 5e-4
    full = STEPS * images.shape[0] * 3
    untouched = int((hardness(clean) >= destination).sum())
    assert 0 < seen < full - (untouched * 3 * STEPS if given_clean else untouched * 3 * (STEPS - 1))


def test_clean_embeddings_only_save_passes() -> None:
    net, images, clean, destination = triplets_at_mixed_hardness()
    pgd, objective = PGD(LInf(EPS), STEP, STEPS), RaiseHardness(destination)
    without = pgd(net, images, objective)
    seen, net.seen = net.seen, 0
    torch.testing.assert_close(pgd(net, images, objective, clean=clean), without, rtol=0, atol=1e-6)
    untouched = int((hardness(clean) >= destination).sum())
    assert untouched > 0
    assert net.seen == seen - 3 * untouched


def test_hardness_rises_to_its_destination_and_one_step_beyond_at_most() -> None:
    net, images, clean, destination = triplets_at_mixed_hardness()
    got = PGD(LInf(EPS), STEP, STEPS)(net, images, RaiseHardness(destination), clean=clean)
    source, reached = hardness(clean), hardness(embed_triplets(net, got))
    course = torch.stack([hardness(embed_triplets(net, x)) for x in naive(net, images, torch.full_like(source, 2.0))])
    largest_step = (course[1:] - course[:-1]).abs().max()
    below = source < destination
    assert below.any()
    assert not below.all()
    assert (reached >= source - 1e-6).all()
    assert (reached >= destination)[below].any()
    assert (reached <= destination + largest_step)[below].all()
    assert torch.equal(got[~below], images[~below])
    assert (got != images).flatten(1).any(dim=1)[below].all()


def test_hardness_of_a_linear_embedder_has_a_closed_form() -> None:
    """On a line with the anchor between positive and negative, each step raises the hardness by ``4 step |w|_1``."""
    weight = uniform(16, 1, low=0.2).double()
    images = torch.stack([torch.full((1, 4, 4), level).double() for level in (0.5, 0.4, 0.8)]).expand(4, -1, -1, -1, -1)
    total = weight.sum()
    source = 0.1 * total - 0.3 * total
    rise = 4 * 0.005 * total
    destination = source + rise * torch.tensor([-1.0, 0.5, 1.5, 99.0]).double()
    got = PGD(LInf(0.03), 0.005, 20)(linear(weight), images, RaiseHardness(destination))
    reached = hardness((got.flatten(2) @ weight).view(4, 3, 1))
    torch.testing.assert_close(reached, source + rise * torch.tensor([0.0, 1.0, 2.0, 6.0]).double())


def test_a_pair_that_coincides_is_finished() -> None:
    net, images = ConvNet(), uniform(2, 2, 1, 8, 8)
    images[0, 1] = images[0, 0]
    before = CollapsePair()(embed_triplets(net, images), torch.arange(2))
    got = PGD(LInf(EPS), STEP, STEPS)(net, images, CollapsePair())
    assert torch.equal(got[0], images[0])
    assert CollapsePair()(embed_triplets(net, got), torch.arange(2))[1] < 0.8 * before[1]


def test_a_shift_moves_away_and_treats_each_image_by_itself() -> None:
    net, images = ConvNet(), uniform(3, 2, 1, 8, 8)
    pgd = PGD(LInf(EPS), STEP, STEPS, start=STEP)

    def shift(x: Tensor) -> Tensor:
        origin = embed_triplets(net, x)
        return pgd(net, x, ShiftEmbedding(origin), generator=torch.Generator().manual_seed(0))

    got, origin = shift(images), embed_triplets(net, images)
    started = PGD(LInf(EPS), STEP, 0, start=STEP)(net, images, Total(), generator=torch.Generator().manual_seed(0))
    moved = (embed_triplets(net, got) - origin).norm(dim=-1)
    assert (moved > 3 * (embed_triplets(net, started) - origin).norm(dim=-1)).all()

    changed = images.clone()
    changed[:, 1] = uniform(3, 1, 8, 8, seed=9)
    torch.testing.assert_close(shift(changed)[:, 0], got[:, 0], rtol=0, atol=1e-6)


def test_goals_value_the_groups_they_are_asked_for() -> None:
    z, origin = uniform(2, 3, 4, low=-1), uniform(5, 3, 4, seed=1, low=-1)
    rows, destination = torch.tensor([4, 1]), torch.tensor([9.0, 2.0, 9.0, 9.0, -2.0])
    shift = [-sum(oracles.distance(x, y) for x, y in zip(z[i], origin[rows[i]], strict=True)) for i in range(2)]
    assert ShiftEmbedding(origin)(z, rows).tolist() == pytest.approx(shift, abs=1e-5)
    short = [max(0.0, destination[rows[i]].item() - oracles.hardness(*z[i].tolist())) for i in range(2)]
    assert RaiseHardness(destination)(z, rows).tolist() == pytest.approx(short, abs=1e-5)
    gaps = [oracles.distance(*z[i, :2].tolist()) for i in range(2)]
    assert CollapsePair()(z[:, :2], rows).tolist() == pytest.approx(gaps, abs=1e-5)


def test_scaled_multiplies_every_length() -> None:
    assert PGD(L2(0.4), 0.1, 3, 0.2).scaled(0.5) == PGD(L2(0.2), 0.05, 3, 0.1)
    images = uniform(2, 2, 1, 8, 8)
    assert torch.equal(PGD(LInf(EPS), STEP, 2, EPS).scaled(0)(ConvNet(), images, Total()), images)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("given_clean", [False, True])
def test_an_objective_that_is_not_finite_raises(value: float, given_clean: bool) -> None:
    """Also where the clean embeddings show it: NaN is not "finished"."""

    def broken(x: Tensor) -> Tensor:
        z = x.flatten(1)
        return torch.cat((torch.full_like(z[:1], value), z[1:]))

    images = uniform(4, 3, 1, 4, 4)
    clean = broken(images.flatten(0, 1)).view(4, 3, -1) if given_clean else None
    with pytest.raises(FloatingPointError, match="1 of 4"):
        PGD(LInf(EPS), STEP, STEPS)(broken, images, RaiseHardness(torch.full((4,), 2.0)), clean=clean)
