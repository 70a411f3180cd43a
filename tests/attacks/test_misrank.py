"""Attacks on robust R@1 against twins: the margin, the odds that they follow, and whose items are rivals."""

import pytest
import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.attacks.base import attack_images
from holdfast.attacks.misrank import LEAST, Misrank
from holdfast.core.objectives import WRONG, DistanceToTarget
from holdfast.core.pgd import PGD, Adaptive
from holdfast.core.steps import LInf
from tests.oracles.attacks import Listed, listed, recall_at_1, world
from tests.oracles.steps import distance


def log_weight(distances: list[Tensor], temperature: float) -> Tensor:
    return torch.stack([-d / temperature for d in distances]).logsumexp(0)


def naive(
    attack: Misrank, z: Tensor, clean: list[float], query: int, sides: tuple[Listed, Listed]
) -> tuple[float, Tensor]:
    """The objective of one query at ``z`` (D,), and the gradient that a descent follows, by differentiation."""
    queries, gallery = sides
    label, identity = queries.labels[query], queries.ids[query]
    seen = [i for i in range(len(gallery)) if gallery.ids[i] != identity]
    away = sorted(distance(clean, gallery.points[i]) for i in seen)
    z = z.double().requires_grad_()
    d = {i: (z - torch.tensor(gallery.points[i], dtype=torch.float64)).norm() for i in seen}
    match, other = ([d[i] for i in seen if (gallery.labels[i] == label) == same] for same in (True, False))
    margin = min(other).item() - min(match).item()
    if margin < 0:
        return WRONG, torch.zeros_like(z)
    temperature = max(attack.odds * margin, LEAST * away[(len(away) - 1) // 2])
    (gradient,) = torch.autograd.grad(log_weight(match, temperature) - log_weight(other, temperature), z)
    return margin, gradient


def moved(system: System, seed: int) -> Tensor:
    noise = torch.randn(system.queries.embeddings.shape, generator=torch.Generator().manual_seed(seed))
    return system.queries.embeddings + 0.1 * noise


@pytest.mark.parametrize("attack", [Misrank(), Misrank(odds=0.1), Misrank(odds=3)])
@pytest.mark.parametrize("seed", range(3))
def test_the_objective_is_the_margin_and_its_gradient_that_of_the_odds(attack: Misrank, seed: int) -> None:
    system = world(seed, queries=12, items=30, grid=False)
    queries = system.queries
    z = moved(system, seed)[:, None].requires_grad_()
    objective = attack.plan(queries, system, queries.ids.new_empty((12, 0))).objective
    values = objective(z, torch.arange(12))
    (gradients,) = torch.autograd.grad(values.sum(), z)
    assert torch.equal(values, objective(z.detach(), torch.arange(12)))
    sides = listed(queries), listed(system.gallery)
    for i, clean in enumerate(queries.embeddings.tolist()):
        value, gradient = naive(attack, z[i, 0].detach(), clean, i, sides)
        assert values[i].item() == pytest.approx(value, abs=2e-4)
        torch.testing.assert_close(
            gradients[i, 0].double(), gradient, rtol=0, atol=1e-3 + 0.02 * float(gradient.norm())
        )


@pytest.mark.parametrize("seed", range(3))
def test_the_margin_is_read_in_percent_of_the_median_distance(seed: int) -> None:
    system = world(seed, queries=12, items=30, grid=False)
    z, attack, queries = moved(system, seed), Misrank(), listed(system.queries)
    outcome = attack.plan(system.queries, system, system.queries.ids.new_empty((12, 0))).outcome
    for i, clean in enumerate(system.queries.embeddings.tolist()):
        seen, away = ([distance(to, item) for item in listed(system.gallery).points] for to in (z[i].tolist(), clean))
        gallery, own = listed(system.gallery), queries.ids[i]
        match, other = (
            [
                d
                for d, label, one in zip(seen, gallery.labels, gallery.ids, strict=True)
                if one != own and same == (label == queries.labels[i])
            ]
            for same in (True, False)
        )
        visible = sorted(d for d, one in zip(away, gallery.ids, strict=True) if one != own)
        median = visible[(len(visible) - 1) // 2]
        assert outcome(z)["margin"][i].item() == pytest.approx(100 * (min(other) - min(match)) / median, abs=0.05)


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


@pytest.mark.parametrize("attack", [Misrank(), Misrank(odds=1), Misrank(odds=0.3, start=1.0), Misrank(toward=0)])
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
