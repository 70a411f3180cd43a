"""Attacks on robust R@1 against twins: the margin, its soft form, and whose items are rivals."""

import math

import pytest
import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.attacks.base import attack_images
from holdfast.attacks.misrank import TEMPERATURE, Misrank
from holdfast.core.objectives import WRONG
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
    order = list(dict.fromkeys(gallery.labels[i] for _, i in away if gallery.labels[i] != label))
    d = {i: distance(z, gallery.points[i]) for i in seen}
    match, other = ([d[i] for i in seen if (gallery.labels[i] == label) == same] for same in (True, False))
    if min(other) < min(match):
        return WRONG
    rivals = order if attack.rival is None else [order[min(attack.rival, len(order) - 1)]]
    near = [d[i] for i in seen if gallery.labels[i] in rivals]
    return softmin(near, attack.count, temperature) - softmin(match, attack.count, temperature)


def moved(system: System, seed: int) -> Tensor:
    noise = torch.randn(system.queries.embeddings.shape, generator=torch.Generator().manual_seed(seed))
    return system.queries.embeddings + 0.1 * noise


@pytest.mark.parametrize(
    "attack", [Misrank(), Misrank(3), Misrank(50), Misrank(rival=1), Misrank(4, rival=0), Misrank(rival=7)]
)
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


@pytest.mark.parametrize("attack", [Misrank(), Misrank(5), Misrank(5, start=1.0), Misrank(away=True), Misrank(rival=0)])
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
