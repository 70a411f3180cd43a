"""The perturbation loop: closed forms, its limits, and that leaving finished groups alone changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize

from holdfast.core.gradients import WHITE_BOX, BackPropagation, Generators, Gradient, Iterate, Square, random_like
from holdfast.core.objectives import CollapsePair, RaiseHardness, ShiftEmbedding
from holdfast.core.pgd import CONSTANT, DECAYING, PGD, Adaptive
from holdfast.core.steps import BALLS, L2, LInf
from holdfast.core.triplets import hardness
from tests.oracles import steps as oracles
from tests.oracles.attacks import generators

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


@settings(max_examples=30)
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


# ---- the best iterate, restarts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """A gradient that keeps what it was asked."""

    gradient: Gradient = field(default_factory=BackPropagation)
    asked: list[Iterate] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def __call__(self, at: Iterate, generators: Generators) -> tuple[Tensor, Tensor]:
        self.asked.append(at)
        values, gradient = self.gradient(at, generators)
        self.values.append(values)
        return values, gradient


def hardnesses(net: ConvNet, images: Tensor) -> Tensor:
    return hardness(embed_triplets(net, images))


def shortfalls(net: ConvNet, images: Tensor, destination: Tensor) -> Tensor:
    return (destination - hardnesses(net, images)).relu()


@pytest.mark.parametrize("given_clean", [False, True])
@pytest.mark.parametrize("start", [0, EPS])
def test_the_best_iterate_is_the_lowest_of_all(given_clean: bool, start: float) -> None:
    """Steps as large as the ball, so that the objective swings."""
    net, images, clean, _ = triplets_at_mixed_hardness()
    watched, objective = Watched(), RaiseHardness(torch.full((24,), 2.0))
    known = clean if given_clean else None
    best, last = (
        PGD(LInf(4 * EPS), 4 * EPS, 6, start, gradient=watched, best=best)(
            net, images, objective, clean=known, generator=generators(24)
        )
        for best in (True, False)
    )
    reached, at_last = (shortfalls(net, x, torch.full((24,), 2.0)) for x in (best, last))
    course = torch.stack([*watched.values[:6], at_last])
    torch.testing.assert_close(reached, course.min(0).values, rtol=0, atol=1e-5)
    assert (reached <= at_last + 1e-6).all()
    assert (reached < at_last - 1e-3).any()


def test_the_best_iterate_may_be_the_image_itself() -> None:
    images = torch.full((2, 1, 1, 1, 1), 0.5)
    got = PGD(LInf(0.4), 0.4, 3, best=True)(lambda x: (x.flatten(1) - 0.5).abs() + x.flatten(1) * 1e-3, images, Total())
    assert torch.equal(got, images)


@pytest.mark.parametrize("best", [False, True])
def test_restarts_never_make_the_objective_worse(best: bool) -> None:
    net, images, _, _ = triplets_at_mixed_hardness()
    far, values = torch.full((24,), 2.0), []
    for restarts in (0, 1, 3):
        pgd = PGD(LInf(EPS), EPS, 3, best=best, restarts=restarts)
        values.append(shortfalls(net, pgd(net, images, RaiseHardness(far), generator=generators(24)), far))
    for fewer, more in pairwise(values):
        assert (more <= fewer + 1e-6).all()
        assert (more < fewer - 1e-4).any()


def test_restarts_begin_anywhere_in_the_ball() -> None:
    images, watched = uniform(3, 2, 1, 8, 8, low=0.4, high=0.6), Watched()
    PGD(LInf(0.1), 0.02, 2, gradient=watched, restarts=2)(ConvNet(), images, Total(), generator=generators(3))
    first, second, third = (watched.asked[i].images for i in (0, 2, 4))
    assert torch.equal(first, images)
    assert not torch.equal(second, third)
    for begun in (second, third):
        assert 0.09 < (begun - images).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize(("best", "restarts"), [(True, 0), (False, 2), (True, 2)])
def test_groups_that_the_clean_embeddings_show_to_be_finished_are_never_embedded(best: bool, restarts: int) -> None:
    net, images, clean, _ = triplets_at_mixed_hardness()
    destination = torch.where(torch.arange(24) % 2 == 0, -2.0, 2.0)
    pgd = PGD(LInf(EPS), STEP, 3, best=best, restarts=restarts)
    got = pgd(net, images, RaiseHardness(destination), clean=clean, generator=generators(24))
    assert net.seen == 12 * 3 * 4 * (restarts + 1)
    assert torch.equal(got[::2], images[::2])
    assert (got != images).flatten(1).any(1)[1::2].all()


def test_groups_that_a_descent_has_finished_are_not_restarted() -> None:
    net, images, clean, _ = triplets_at_mixed_hardness()
    objective = RaiseHardness(hardness(clean) + 1e-3)
    PGD(LInf(EPS), STEP, STEPS, best=True)(net, images, objective)
    once, net.seen = net.seen, 0
    got = PGD(LInf(EPS), STEP, STEPS, restarts=3)(net, images, objective, generator=generators(24))
    assert (hardnesses(net, got) >= hardness(clean) + 1e-3 - 1e-6).all()
    assert net.seen - 24 * 3 == once


# ---- where random numbers come from ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ball", list(BALLS))
def test_with_a_generator_each_no_group_depends_on_the_others(ball: str) -> None:
    images, pgd = uniform(5, 2, 1, 8, 8), PGD(BALLS[ball](0.3), 0.1, 0, start=0.2, restarts=1)
    together = pgd(ConvNet(), images, Total(), generator=generators(5))
    alone = [pgd(ConvNet(), images[i : i + 1], Total(), generator=generators(5)[i : i + 1]) for i in range(5)]
    assert torch.equal(torch.cat(alone), together)
    assert not torch.equal(together, pgd(ConvNet(), images, Total(), generator=generators(5, seed=1)))


def test_a_group_keeps_its_generator_when_others_are_finished() -> None:
    """The even ones are finished from the start, or reach their goal on the way."""
    net, images, clean, _ = triplets_at_mixed_hardness()
    drawn: list[list[torch.Generator]] = []

    def draw(at: Iterate, generators: Generators) -> tuple[Tensor, Tensor]:
        assert isinstance(generators, list)
        drawn.append(generators)
        return BackPropagation()(at, generators)

    given = generators(24)
    destination = torch.where(torch.arange(24) % 2 == 0, -2.0, 2.0)
    PGD(LInf(EPS), STEP, 2, gradient=draw)(net, images, RaiseHardness(destination), clean=clean, generator=given)
    assert drawn == [given[1::2]] * 2


def test_random_numbers_have_the_shape_asked_for() -> None:
    like = torch.zeros(3, 2, 5, dtype=torch.float64)
    for source in (None, torch.Generator(), generators(3)):
        found = random_like(torch.randn, like, source)
        assert (found.shape, found.dtype) == (like.shape, like.dtype)
        assert len(set(found.flatten().tolist())) == found.numel()
    one, *_ = random_like(torch.rand, like, generators(3))
    assert torch.equal(one, torch.rand(2, 5, generator=generators(3)[0]).double())
    assert random_like(torch.rand, like[:0], []).shape == (0, 2, 5)
    with pytest.raises(ValueError, match="2 generators for 3 groups"):
        random_like(torch.rand, like, generators(2))


# ---- other gradients, other paces -----------------------------------------------------------------------------------


def test_a_gradient_is_told_where_the_descent_stands() -> None:
    net, images, clean, _ = triplets_at_mixed_hardness()
    destination = torch.where(torch.arange(24) % 2 == 0, -2.0, 2.0)
    objective, watched = RaiseHardness(destination), Watched()
    pgd = PGD(LInf(EPS), STEP, 4, gradient=watched)
    got = pgd(net, images, objective, clean=clean)
    assert torch.equal(got, PGD(LInf(EPS), STEP, 4)(net, images, objective, clean=clean))
    assert [at.progress for at in watched.asked] == [0, 0.25, 0.5, 0.75]
    assert {at.floor for at in watched.asked} == {objective.floor}
    assert torch.equal(watched.asked[0].images, images[1::2])
    torch.testing.assert_close(watched.values[0], (2 - hardness(clean))[1::2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("ball", [LInf(0.1), L2(0.5)])
def test_the_descent_goes_against_any_direction(ball: LInf | L2) -> None:
    """And ``move`` says where that leads."""
    images, led = uniform(3, 2, 1, 8, 8, low=0.4, high=0.6), []

    def darker(at: Iterate, generators: Generators) -> tuple[Tensor, Tensor]:
        led.append(at.move(torch.ones_like(at.images)))
        return at.value(at.images).detach(), torch.ones_like(at.images)

    got = PGD(ball, ball.eps / 2, 5, gradient=darker)(ConvNet(), images, Total())
    torch.testing.assert_close(got, images - (0.1 if isinstance(ball, LInf) else 0.5 / 8), rtol=0, atol=1e-6)
    assert torch.equal(led[-1], got)
    torch.testing.assert_close(led[0], images - (0.05 if isinstance(ball, LInf) else 0.25 / 8), rtol=0, atol=1e-6)


def test_back_propagation_gives_nothing_where_all_groups_are_finished() -> None:
    images = uniform(2, 1, 1, 4, 4)
    at = Iterate(images, lambda x: x.flatten(1).sum(1), lambda direction: images, floor=99, progress=0)
    values, gradient = BackPropagation()(at, None)
    torch.testing.assert_close(values, images.flatten(1).sum(1))
    assert torch.equal(gradient, torch.zeros_like(images))


def test_fading_steps_come_to_rest_after_the_same_way() -> None:
    """Even steps of 0.1 swing about the minimum for ever; fading ones of the same mean end beside it."""
    assert {CONSTANT.sizes(i / 7) for i in range(7)} == {1}
    sizes = [DECAYING.sizes(i / 50) for i in range(50)]
    assert sum(sizes) / 50 == pytest.approx(1, rel=0.03)
    assert sizes == sorted(sizes, reverse=True)

    def far(x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.43).abs()

    image = torch.full((1, 1, 1, 1, 1), 0.5)
    steady, resting = (
        far(PGD(LInf(0.5), 0.1, 50, schedule=schedule)(far, image, Total())[:, 0]).item()
        for schedule in (CONSTANT, DECAYING)
    )
    assert steady == pytest.approx(0.07, abs=1e-4)
    assert resting < 0.005


@pytest.mark.parametrize("norm", list(BALLS))
@pytest.mark.parametrize("adaptive", [True, False])
def test_a_group_with_a_scale_of_its_own_goes_as_in_a_ball_of_that_size(norm: str, adaptive: bool) -> None:
    net, images = ConvNet().double(), uniform(5, 2, 1, 8, 8).double()
    scale = torch.tensor([0.1, 0.5, 0.7, 1.0, 1.3], dtype=torch.float64)
    schedule, gradient = (Adaptive(), WHITE_BOX) if adaptive else (CONSTANT, Square())
    pgd = PGD(BALLS[norm](0.2), 0.4, 12, 0.1, gradient, schedule, best=True, restarts=1)
    got = pgd(net, images, Total(), generator=generators(5), scale=scale)
    for i, factor in enumerate(scale.tolist()):
        alone = pgd.scaled(factor)(net, images[i : i + 1], Total(), generator=generators(5)[i : i + 1])
        torch.testing.assert_close(got[i : i + 1], alone, rtol=0, atol=1e-7)
        assert pgd.ball.norm(got[i] - images[i]).max() <= 0.2 * factor + 1e-7
    once = pgd(net, images, Total(), generator=generators(5), scale=torch.ones(5, dtype=torch.float64))
    assert torch.equal(once, pgd(net, images, Total(), generator=generators(5)))
