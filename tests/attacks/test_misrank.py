"""Attacks on robust R@1 against twins: the margin, its soft form, and whose items are rivals."""

import math

import pytest
import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.attacks.base import attack_images
from holdfast.attacks.misrank import TEMPERATURE, Misrank
from holdfast.core.objectives import WRONG, DistanceToTarget
from holdfast.core.pgd import PGD, Adaptive, LInf
from tests.oracles.attacks import Listed, listed, recall_at_1, world
from tests.oracles.steps import distance


def softmin(distances: list[float], count: int, temperature: float) -> float:
    nearest = sorted(distances)[:count]
    return -temperature * math.log(sum(math.exp(-d / temperature) for d in nearest))


def naive(attack: Misrank, z: list[float], clean: list[float], query: int, sides: tuple[Listed, Listed]) -> float:
    """The objective of one query at ``z``."""
    queries, gallery = sides
    label, identity = queries.labels[query], queries.ids[query]
    seen = [i for i in range(len(gallery)) if gallery.ids[i] != identity]
    away = sorted((distance(clean, gallery.points[i]), i) for i in seen)
    temperature = TEMPERATURE * away[(len(away) - 1) // 2][0]
    d = {i: distance(z, gallery.points[i]) for i in seen}
    match, other = ([d[i] for i in seen if (gallery.labels[i] == label) == same] for same in (True, False))
    if min(other) < min(match):
        return WRONG
    return softmin(other, attack.count, temperature) - softmin(match, attack.count, temperature)


def moved(system: System, seed: int) -> Tensor:
    noise = torch.randn(system.queries.embeddings.shape, generator=torch.Generator().manual_seed(seed))
    return system.queries.embeddings + 0.1 * noise


@pytest.mark.parametrize("attack", [Misrank(), Misrank(3), Misrank(50)])
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_is_the_naive_one(attack: Misrank, seed: int) -> None:
    system = world(seed, queries=12, items=30, grid=False)
    queries = system.queries
    z = moved(system, seed)
    objective = attack.plan(queries, system, queries.ids.new_empty((12, 0))).objective
    got = objective(z[:, None], torch.arange(12))
    sides = listed(queries), listed(system.gallery)
    for i, (found, at, clean) in enumerate(zip(got.tolist(), z.tolist(), queries.embeddings.tolist(), strict=True)):
        expected = naive(attack, at, clean, i, sides)
        assert found == pytest.approx(expected, abs=2e-4)


def test_a_wrong_query_is_finished_and_pulls_no_more() -> None:
    system = world(0, grid=False)
    z = moved(system, 0)[:, None].requires_grad_()
    objective = Misrank().plan(system.queries, system, system.queries.ids.new_empty((12, 0))).objective
    values = objective(z, torch.arange(12))
    (gradient,) = torch.autograd.grad(values.sum(), z)
    wrong = values == objective.floor
    assert wrong.any()
    assert not wrong.all()
    assert not gradient[wrong].any()
    assert gradient[~wrong].flatten(1).any(1).all()


@pytest.mark.parametrize(
    "attack", [Misrank(), Misrank(5), Misrank(5, start=1.0), Misrank(away=True), Misrank(toward=0)]
)
def test_what_an_attack_breaks_is_wrong_within_the_ball(attack: Misrank) -> None:
    """A network that is the identity: an image is its embedding."""
    system = world(1, queries=12, items=30, grid=False)
    low, high = system.gallery.embeddings.min() - 1, system.gallery.embeddings.max() + 1

    def embed(x: Tensor) -> Tensor:
        return x.flatten(1) * (high - low) + low

    images = ((system.queries.embeddings - low) / (high - low)).view(12, 1, 1, 3)
    pgd = PGD(LInf(0.1), 0.2, 40, schedule=Adaptive(), best=True)
    found = attack_images(
        attack,
        embed,
        system,
        system.queries,
        images,
        chosen=system.queries.ids.new_empty((12, 0)),
        pgd=pgd,
        generators=[torch.Generator().manual_seed(i) for i in range(12)],
    )
    assert (found.images - images).abs().max() <= 0.1 + 1e-6
    queries, gallery = listed(system.queries), listed(system.gallery)
    for i, z in enumerate(embed(found.images).tolist()):
        expected = recall_at_1(z, queries.labels[i], queries.ids[i], gallery)
        assert found.after["R@1"][i] == pytest.approx(expected)
    assert found.after["R@1"].mean() < found.before["R@1"].mean()


@pytest.mark.parametrize("toward", [0, 1, 7])
def test_a_descent_sets_out_for_the_centroid_of_a_wrong_class(toward: int) -> None:
    system = world(2, queries=12, items=30, grid=False)
    queries, gallery = listed(system.queries), listed(system.gallery)
    approach = Misrank(toward=toward).plan(system.queries, system, system.queries.ids.new_empty((12, 0))).approach
    assert isinstance(approach, DistanceToTarget)
    for i, (z, label) in enumerate(zip(queries.points, queries.labels, strict=True)):
        order = sorted(
            (j for j in range(30) if gallery.ids[j] != queries.ids[i]), key=lambda j: distance(z, gallery.points[j])
        )
        classes = list(dict.fromkeys(gallery.labels[j] for j in order if gallery.labels[j] != label))
        members = [gallery.points[j] for j in range(30) if gallery.labels[j] == classes[min(toward, len(classes) - 1)]]
        mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
        assert approach.target[i].tolist() == pytest.approx(mean, abs=1e-5)
