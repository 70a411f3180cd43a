"""ES and TMA against their naive twins, their optima in closed form, and how the published evaluator reads ES."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import normalize

from holdfast.attacks import ES, TMA, System
from holdfast.attacks.shift import ESBeforeLastStep
from holdfast.core.pgd import PGD
from holdfast.core.steps import LInf
from holdfast.evaluation.protocols import CVPR22, STRICT
from tests.helpers.tiny import same_set
from tests.oracles import attacks as naive
from tests.oracles import steps as oracles
from tests.oracles.attacks import generators, listed, numbers, some, world
from tests.oracles.steps import distance

EPS = 0.05
SEEDS = st.integers(0, 10**6)


def descent(step: float, steps: int) -> PGD:
    return PGD(LInf(EPS), step, steps, start=ES.start * EPS, best=STRICT.best, schedule=STRICT.schedule)


class Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return normalize(x, dim=1)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 6), Unit())
    return nn.Sequential(*layers).eval().requires_grad_(False)


def system_of(embed: nn.Module, images: Tensor) -> System:
    return System(*same_set(embed(images), torch.arange(len(images)) % 2))


def uniform(*shape: int, low: float = 0.0, high: float = 1.0, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


# ---- objectives and readings ----------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(SEEDS, st.booleans())
def test_es_is_its_twin(seed: int, grid: bool) -> None:
    """R@1 too, with ties, and for queries that the gallery has no match for."""
    system = world(seed, grid=grid, classes=6)
    gallery, asking = listed(system.gallery), listed(system.queries)
    chosen = ES().choose(system.queries, system, generators(12))
    plan, rows = ES().plan(system.queries, system, chosen), torch.tensor([7, 2, 11])
    z = numbers(torch.Generator().manual_seed(seed + 1), 12, 3, grid=grid)
    z[2] = system.queries.embeddings[2]
    at = z[rows, None].clone().requires_grad_()
    found = plan.objective(at, rows)
    (gradient,) = torch.autograd.grad(found.sum(), at)
    moved = [distance(z[i].tolist(), asking.points[i]) for i in range(12)]
    assert found.tolist() == pytest.approx([-moved[i] for i in rows.tolist()], abs=1e-5)
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    assert plan.objective.floor == -math.inf
    reading = plan.outcome(z)
    assert reading["ES:D"].tolist() == pytest.approx(moved, abs=1e-5)
    hits = [naive.recall_at_1(z[i].tolist(), asking.labels[i], asking.ids[i], gallery) for i in range(12)]
    assert reading["ES:R"].tolist() == pytest.approx(hits, abs=1e-3, nan_ok=True)


@settings(max_examples=30)
@given(SEEDS)
def test_tma_is_its_twin(seed: int) -> None:
    system = world(seed, grid=False)
    chosen = TMA().choose(system.queries, system, generators(12))
    plan, rows = TMA().plan(system.queries, system, chosen), torch.tensor([7, 2, 11])
    z = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed + 1))
    z[2] = system.gallery.embeddings[chosen[2, 0]]
    cosines = []
    for i, row in enumerate(chosen[:, 0].tolist()):
        a, b = z[i].tolist(), system.gallery.embeddings[row].tolist()
        cosines.append(sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b)))
        assert system.gallery.ids[row] != system.queries.ids[i]
    at = z[rows, None].clone().requires_grad_()
    found = plan.objective(at, rows)
    (gradient,) = torch.autograd.grad(found.sum(), at)
    assert found.tolist() == pytest.approx([1 - cosines[i] for i in rows.tolist()], abs=1e-5)
    assert gradient.isfinite().all()
    assert plan.outcome(z)["TMA"].tolist() == pytest.approx(cosines, abs=1e-5)


def test_tma_targets_are_any_item_but_the_own() -> None:
    system = world(0, grid=False, items=6, queries=6)
    query = some(system.queries, [0])
    drawn = {TMA().choose(query, system, generators(1, seed)).item() for seed in range(80)}
    assert drawn == {row for row in range(6) if system.gallery.ids[row] != query.ids[0]}


# ---- closed forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [1, 3])
def test_es_reaches_its_optimum_with_a_linear_embedder(dims: int) -> None:
    """Each dimension sees pixels of its own, so it moves by ``eps |a|_1``, whatever the others do."""
    weight = torch.zeros(18, dims)
    for k in range(dims):
        weight[k * 18 // dims : (k + 1) * 18 // dims, k] = uniform(18 // dims, low=-1, seed=k)
    images = uniform(4, 1, 1, 3, 6, low=0.4, high=0.6)

    def embed(x: Tensor) -> Tensor:
        return x.flatten(1) @ weight

    system = System(*same_set(embed(images[:, 0]), torch.zeros(4, dtype=torch.long)))
    plan = ES().plan(system.queries, system, torch.empty(4, 0, dtype=torch.long))
    got = descent(EPS / 10, 32)(embed, images, plan.objective, generator=generators(4))
    optimum = EPS * weight.abs().sum(0).norm().item()
    moved = plan.outcome(embed(got[:, 0]))["ES:D"]
    assert (moved > 0.99 * optimum).all()
    assert (moved <= optimum + 1e-5).all()


@pytest.mark.parametrize("seed", range(6))
def test_tma_reaches_its_optimum_with_a_linear_embedder(seed: int) -> None:
    """Two pixels: the largest cosine lies on the edge of the box, or is 1 where the target's ray crosses the box."""
    grey, draw = torch.full((1, 1, 1, 1, 2), 0.5), torch.Generator().manual_seed(seed)
    rotation = torch.tensor([[0.8, -0.6], [0.6, 0.8]])

    def embed(x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.3) @ rotation.T

    target = embed(grey[0]) + torch.randn(1, 2, generator=draw)
    system = System(*same_set(torch.cat([embed(grey[0]), target]), torch.tensor([0, 1])))
    plan = TMA().plan(some(system.queries, [0]), system, torch.tensor([[1]]))
    side = torch.linspace(0.5 - EPS, 0.5 + EPS, 1001)
    edges = torch.cat([torch.cartesian_prod(side, side[[0, -1]]), torch.cartesian_prod(side[[0, -1]], side)])
    optimum = (1 - nn.functional.cosine_similarity(embed(edges), target)).min().item()
    got = descent(EPS / 10, 64)(embed, grey, plan.objective, generator=generators(1))
    start, reached = (1 - plan.outcome(embed(x[0]))["TMA"].item() for x in (grey, got))
    assert start > optimum + 1e-3
    assert reached <= optimum + 0.01 * (start - optimum)


# ---- quirks of cvpr22 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_published_distance_is_that_before_the_last_step(steps: int) -> None:
    embed, images = network(), uniform(5, 1, 4, 4, low=0.3, high=0.7)
    system = system_of(embed, images)
    attack, none = CVPR22.attacks["es"], torch.empty(5, 0, dtype=torch.long)
    assert isinstance(attack, ESBeforeLastStep)
    plan, strict = (one.plan(system.queries, system, none) for one in (attack, ES()))
    assert plan.outcome(system.queries.embeddings)["ES:D"].tolist() == [0] * 5
    got = PGD(LInf(EPS), EPS / 4, steps)(
        embed, images[:, None], plan.objective, clean=system.queries.embeddings[:, None]
    )

    away = plan.objective.origin  # type: ignore[attr-defined]
    course = oracles.pgd(
        embed, images[:, None], lambda z, i: -(z[0] - away[i]).norm(), eps=EPS, step=EPS / 4, steps=steps
    )
    moved = [
        [distance(z, x) for z, x in zip(embed(at[:, 0]).tolist(), embed(images).tolist(), strict=True)] for at in course
    ]
    torch.testing.assert_close(got, course[-1], rtol=0, atol=1e-6)
    z = embed(got[:, 0])
    assert plan.outcome(z)["ES:D"].tolist() == pytest.approx(moved[-2], abs=1e-5)
    assert strict.outcome(z)["ES:D"].tolist() == pytest.approx(moved[-1], abs=1e-5)
    assert all(last > before + 1e-3 for before, last in zip(moved[-2], moved[-1], strict=True))
    assert plan.outcome(z)["ES:R"].tolist() == strict.outcome(z)["ES:R"].tolist()


def test_the_published_es_moves_without_a_random_start() -> None:
    """Strict has no gradient at the origin and starts off the image."""
    embed, images = network(), uniform(5, 1, 4, 4, low=0.3, high=0.7)
    system, none = system_of(embed, images), torch.empty(5, 0, dtype=torch.long)
    published, strict = (protocol.attacks["es"] for protocol in (CVPR22, STRICT))
    assert (published.start, strict.start) == (0, 0.1)
    for attack, moves in ((published, True), (strict, False)):
        plan = attack.plan(system.queries, system, none)
        got = PGD(LInf(EPS), EPS / 4, 4)(embed, images[:, None], plan.objective)
        assert (got[:, 0] != images).flatten(1).any(1).tolist() == [moves] * 5
    started = PGD(LInf(EPS), EPS / 4, 4, start=strict.start * EPS)(embed, images[:, None], plan.objective)
    assert (plan.outcome(embed(started[:, 0]))["ES:D"] > 0.02).all()


def test_the_published_es_sets_out_as_the_distance_of_torch_does() -> None:
    """The evaluator takes ``F.pairwise_distance``, which adds 1e-6, to the clean embedding, to which it adds 1e-7."""
    embed, images = network(), uniform(5, 1, 4, 4, low=0.3, high=0.7)
    system, none = system_of(embed, images), torch.empty(5, 0, dtype=torch.long)
    origin = system.queries.embeddings
    plan = CVPR22.attacks["es"].plan(system.queries, system, none)
    got = PGD(LInf(EPS), EPS / 4, 1)(embed, images[:, None], plan.objective)[:, 0]

    pixels = images.clone().requires_grad_()
    torch.nn.functional.pairwise_distance(embed(pixels), origin + 1e-7).sum().backward()
    assert pixels.grad is not None
    torch.testing.assert_close(got, (images + EPS / 4 * pixels.grad.sign()).clamp(0, 1), rtol=0, atol=1e-6)
    assert (embed(got).sum(1) > origin.sum(1)).all()
