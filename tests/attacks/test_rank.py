"""CA, QA, SPQA and OA against their naive twins, their optima in closed form, and the quirks of the published ones."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.attacks import CA, QA, SPQA, Order, System
from holdfast.attacks.base import nearest_percent, nearest_percent_after_the_first, no_entries, own_entries, sample_pool
from holdfast.core.gallery import Gallery, nearest
from holdfast.core.objectives import Objective, Sign
from holdfast.core.pgd import PGD
from holdfast.core.steps import LInf
from holdfast.evaluation.protocols import CVPR22, STRICT
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import same_set
from tests.oracles import attacks as naive
from tests.oracles.attacks import generators, listed, numbers, some, world

SEEDS = st.integers(0, 10**6)
SIGNS = st.sampled_from("+-")


def embedded(seed: int, count: int, dim: int, grid: bool) -> Tensor:
    return numbers(torch.Generator().manual_seed(seed + 1), count, dim, grid=grid)


def values(objective: Callable[[Tensor, Tensor], Tensor], z: Tensor, rows: Tensor) -> list[float]:
    """Of the groups in play, in whatever order; the gradient must be finite."""
    at = z[rows, None].clone().requires_grad_()
    found = objective(at, rows)
    if found.requires_grad:
        (gradient,) = torch.autograd.grad(found.sum(), at)
        assert gradient.isfinite().all()
    return found.tolist()


def close(expected: list[float], tolerance: float = 1e-4) -> object:
    return pytest.approx(expected, abs=tolerance, rel=tolerance)


def line(*places: float) -> System:
    """Embeddings on a line, each of them query and item."""
    return System(*same_set(torch.tensor(places).float()[:, None], torch.zeros(len(places), dtype=torch.long)))


# ---- objective and reading ------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(SEEDS, st.booleans(), SIGNS, st.integers(1, 4), st.booleans())
def test_qa_is_its_twin(seed: int, grid: bool, sign: Sign, targets: int, own_counts: bool) -> None:
    system = world(seed, grid=grid)
    attack = QA(sign, targets, excluded=no_entries if own_counts else own_entries)
    gallery, ids = listed(system.gallery), system.queries.ids.tolist()
    chosen = attack.choose(system.queries, system, generators(12)) if sign == "+" else naive_targets(system, targets)
    plan, z, rows = attack.plan(system.queries, system, chosen), embedded(seed, 12, 3, grid), torch.tensor([7, 2, 11])
    hidden = [[] if own_counts else [i] for i in ids]
    assert values(plan.objective, z, rows) == close(
        [naive.query_objective(sign, z[i].tolist(), gallery, chosen[i].tolist(), hidden[i]) for i in rows]
    )
    ranks = [naive.query_rank(z[i].tolist(), gallery, chosen[i].tolist(), hidden[i]) for i in range(12)]
    assert plan.outcome(z)[attack.readings[0]].tolist() == close(ranks)


def naive_targets(system: System, count: int) -> Tensor:
    gallery, asking = listed(system.gallery), listed(system.queries)
    nearest_rows = [naive.by_distance(z, gallery, [i]) for z, i in zip(asking.points, asking.ids, strict=True)]
    return torch.tensor([rows[:count] for rows in nearest_rows])


@settings(max_examples=30)
@given(SEEDS, st.booleans(), SIGNS, st.integers(1, 3), st.booleans())
def test_ca_is_its_twin(seed: int, grid: bool, sign: Sign, width: int, own_counts: bool) -> None:
    """Also for candidates that stand where they stood, tied with the items that equal them."""
    system = world(seed, grid=grid)
    attack = CA(sign, width, excluded=no_entries if own_counts else own_entries)
    gallery, asking = listed(system.gallery), listed(system.queries)
    chosen = CA("+", width).choose(system.gallery, system, generators(20))
    plan, rows = attack.plan(system.gallery, system, chosen), torch.tensor([7, 2, 19])
    z = embedded(seed, 20, 3, grid)
    z[:10] = system.gallery.embeddings[:10]

    def arguments(i: int) -> tuple[list[list[float]], naive.Listed, list[list[int]]]:
        hidden = [[] if own_counts else [gallery.ids[i], asking.ids[q]] for q in chosen[i].tolist()]
        return [list(asking.points[q]) for q in chosen[i].tolist()], gallery, hidden

    assert values(plan.objective, z, rows) == close(
        [naive.candidate_objective(sign, z[i].tolist(), *arguments(i)) for i in rows.tolist()]
    )
    ranks = [naive.candidate_rank(z[i].tolist(), *arguments(i)) for i in range(20)]
    assert plan.outcome(z)[attack.readings[0]].tolist() == close(ranks)


@settings(max_examples=20)
@given(SEEDS, st.booleans(), SIGNS, st.integers(1, 3))
def test_spqa_is_its_twin(seed: int, grid: bool, sign: Sign, targets: int) -> None:
    system = world(seed, grid=grid)
    attack = SPQA(sign, targets, balance=3.0)
    gallery, asking = listed(system.gallery), listed(system.queries)
    if sign == "-":
        system = replace(system, gallery=repeated(system.gallery, 20))
        gallery = listed(system.gallery)
    chosen = attack.choose(system.queries, system, generators(12)).tolist()
    z, rows = embedded(seed, 12, 3, grid), torch.tensor([7, 2, 11])
    plan = attack.plan(system.queries, system, torch.tensor(chosen))
    for i in range(12):
        ranked = naive.by_distance(asking.points[i], gallery, [asking.ids[i]])
        assert len(chosen[i]) == targets + 5
        kept = [x for x in ranked if x not in chosen[i][:targets]][:5]
        assert chosen[i][targets:] == kept
    both = [
        naive.query_objective(sign, z[i].tolist(), gallery, chosen[i][:targets], [asking.ids[i]])
        + 3 * naive.query_objective("+", z[i].tolist(), gallery, chosen[i][targets:], [asking.ids[i]])
        for i in rows.tolist()
    ]
    assert values(plan.objective, z, rows) == close(both)
    reading = plan.outcome(z)
    for name, part in zip(attack.readings, (slice(targets), slice(targets, None)), strict=True):
        ranks = [naive.query_rank(z[i].tolist(), gallery, chosen[i][part], [asking.ids[i]]) for i in range(12)]
        assert reading[name].tolist() == close(ranks)


def repeated(gallery: Gallery, times: int) -> Gallery:
    """A gallery of which one percent is enough to choose from."""
    ids = torch.cat([gallery.ids + 1000 * i for i in range(times)])
    noise = torch.arange(times).repeat_interleave(len(gallery.ids))[:, None]
    return Gallery(gallery.embeddings.repeat(times, 1) + noise, gallery.labels.repeat(times), ids)


@settings(max_examples=30)
@given(SEEDS, st.booleans(), st.integers(2, 5), st.integers(1, 12))
def test_oa_is_its_twin(seed: int, grid: bool, count: int, visible: int) -> None:
    system = world(seed, grid=grid)
    attack, gallery, asking = Order(count, visible, balance=2.0), listed(system.gallery), listed(system.queries)
    chosen = attack.choose(system.queries, system, generators(12)).tolist()
    for i in range(12):
        assert sorted(chosen[i]) == sorted(naive.by_distance(asking.points[i], gallery, [asking.ids[i]])[:count])
    z, rows = embedded(seed, 12, 3, grid), torch.tensor([7, 2, 11])
    plan = attack.plan(system.queries, system, torch.tensor(chosen))
    assert values(plan.objective, z, rows) == close(
        [
            naive.in_order(z[i].tolist(), gallery, chosen[i])
            + 2 * naive.query_objective("+", z[i].tolist(), gallery, chosen[i], [asking.ids[i]])
            for i in rows.tolist()
        ]
    )
    reading = plan.outcome(z)
    correlations = [
        naive.short_range_correlation(z[i].tolist(), gallery, chosen[i], [asking.ids[i]], visible) for i in range(12)
    ]
    assert reading[attack.readings[0]].tolist() == close(correlations)
    ranks = [naive.query_rank(z[i].tolist(), gallery, chosen[i], [asking.ids[i]]) for i in range(12)]
    assert reading[attack.readings[1]].tolist() == close(ranks)


def test_the_order_attack_draws_its_orders() -> None:
    system = line(*range(10))
    orders = [
        tuple(Order(3).choose(some(system.queries, [0]), system, generators(1, i))[0].tolist()) for i in range(60)
    ]
    assert set(orders) == {(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)}
    with pytest.raises(HoldfastError, match="at least 2 items, not 1"):
        Order(1)


@pytest.mark.parametrize("sign", ["+", "-"])
def test_a_goal_that_is_reached_has_no_objective_left(sign: Sign) -> None:
    """Exactly: a target is as far as itself, or rounding would drive the descent on."""
    table = normalize(torch.randn(300, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    system = System(*same_set(table, torch.zeros(300, dtype=torch.long)))
    plan = QA(sign).plan(some(system.queries, range(40)), system, torch.arange(40, 80)[:, None])
    z = table[40:80] if sign == "+" else -table[40:80]
    assert not plan.objective(z[:, None], torch.arange(40)).any()


def test_doubles_tie_whatever_their_numbers() -> None:
    """The product that gives the distances rounds, but alike for equal items, and for a candidate that equals them."""
    table = normalize(torch.randn(20, 64, generator=torch.Generator().manual_seed(0)), dim=1).repeat(3, 1)
    system = System(*same_set(table, torch.zeros(60, dtype=torch.long)))
    perturbed, gallery = some(system.gallery, range(20)), listed(system.gallery)
    chosen = torch.arange(20)[:, None] + torch.tensor([7, 31])
    ca, qa = (
        attack.plan(perturbed, system, chosen).outcome(perturbed.embeddings) for attack in (CA("+", 2), QA("+", 2))
    )
    for i in range(20):
        z, targets = list(gallery.points[i]), chosen[i].tolist()
        asking, hidden = [gallery.points[q] for q in targets], [[i, q] for q in targets]
        assert ca["CA+:2"][i].item() == pytest.approx(naive.candidate_rank(z, asking, gallery, hidden), abs=1e-3)
        assert qa["QA+:2"][i].item() == pytest.approx(naive.query_rank(z, gallery, targets, [i]), abs=1e-3)


@pytest.mark.parametrize("attack", [CA("+", 2), CA("-"), QA("+"), QA("-"), SPQA("+"), Order()])
def test_readings_keep_their_precision_under_autocast(attack: CA | QA | SPQA | Order) -> None:
    system = world(0, items=40, dim=8, grid=False)
    perturbed = system.gallery if attack.side == "candidate" else system.queries
    chosen = attack.choose(perturbed, system, generators(len(perturbed.ids)))
    z = embedded(1, len(perturbed.ids), 8, grid=False)
    plain = attack.plan(perturbed, system, chosen).outcome(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = attack.plan(perturbed, system, chosen).outcome(z)
    assert {name: values.tolist() for name, values in half.items()} == {
        name: values.tolist() for name, values in plain.items()
    }


def test_readings_are_named_after_several_targets() -> None:
    assert [*CA("+").readings, *CA("-", 3).readings, *QA("-").readings] == ["CA+", "CA-:3", "QA-"]
    assert [*QA("+", 5).readings, *SPQA("-", 2).readings] == ["QA+:5", "SPQA-:2", "SPQA-:2 kept"]


# ---- what is chosen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [CA("+", 3), QA("+", 3)])
def test_random_targets_are_different_and_never_the_images_own(attack: CA | QA) -> None:
    system = line(*range(5))
    perturbed = some(system.gallery, [4, 0])
    drawn = torch.stack([attack.choose(perturbed, system, generators(2, seed)) for seed in range(200)])
    for i, own in enumerate(perturbed.ids.tolist()):
        assert all(len(set(row)) == 3 for row in drawn[:, i].tolist())
        counts = Counter(drawn[:, i].flatten().tolist())
        assert own not in counts
        assert all(110 < counts[x] < 190 for x in range(5) if x != own)


@pytest.mark.parametrize("kind", [CA, QA])
def test_near_targets_come_from_the_nearest_percent(kind: type[CA] | type[QA]) -> None:
    system = world(3, queries=400, items=400, grid=False, dim=2)
    asked = system.query_items if kind is CA else system.items
    perturbed = some(system.gallery if kind is CA else system.queries, range(30))
    drawn = torch.cat([kind("-", 2).choose(perturbed, system, generators(30, seed)) for seed in range(30)], dim=1)
    for i, row in enumerate(drawn.tolist()):
        ranked = naive.by_distance(perturbed.embeddings[i].tolist(), listed(asked.set), [int(perturbed.ids[i])])
        assert set(row) == set(ranked[:4])
    assert (drawn[:, ::2] != drawn[:, 1::2]).all()


def test_too_few_items_are_refused() -> None:
    system = line(0, 1, 2)
    for attack in (QA("+", 3), CA("+", 3), Order(3)):
        with pytest.raises(HoldfastError, match="needs 3 different targets, and has 2 to choose from"):
            attack.choose(system.gallery, system, generators(3))
    with pytest.raises(HoldfastError, match="needs 2 different targets, and has 1 to choose from"):
        QA("-", 2).choose(system.queries, system, generators(3))
    with pytest.raises(HoldfastError, match="needs 5 different targets, and has 4 to choose from"):
        SPQA("+").choose(line(*range(6)).queries, line(*range(6)), generators(6))
    with pytest.raises(HoldfastError, match="and has 0"):
        nearest(torch.tensor([[torch.inf]]), 1)


def test_drawing_from_a_pool_is_even() -> None:
    counts = Counter(sample_pool(torch.tensor([[4, 6, 9]]), 1, generators(1, seed)).item() for seed in range(300))
    assert set(counts) == {4, 6, 9}
    assert min(counts.values()) > 70


# ---- quirks of cvpr22 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "ahead"), [("ca+", 2), ("ca-", 2), ("qa+", 1), ("qa-", 1)])
def test_published_ranks_count_own_clean_copies(name: str, ahead: int) -> None:
    """The image at 0 moves to -1: its copy is then nearer to the item at 1, and so is that item itself."""
    system, z = line(0, 1, 5, 9), torch.tensor([[-1.0]])
    perturbed, chosen = some(system.gallery, [0]), torch.tensor([[1]])
    for attack, expected in ((STRICT.attacks[name], 0), (CVPR22.attacks[name], 25 * ahead)):
        assert attack.plan(perturbed, system, chosen).outcome(z)[name.upper()].tolist() == [expected]


def test_a_published_candidate_ties_with_its_own_copy_before_it_moves() -> None:
    system = line(0, 1, 5, 9)
    perturbed, chosen = some(system.gallery, [0]), torch.tensor([[1]])
    for attack, ahead in ((STRICT.attacks["ca+"], 0), (CVPR22.attacks["ca+"], 1.5)):
        assert attack.plan(perturbed, system, chosen).outcome(perturbed.embeddings)["CA+"].tolist() == [25 * ahead]


@pytest.mark.parametrize(("name", "value"), [("qa+", (2 - 1) / 4), ("ca+", ((2 - 1) + (2 - 0)) / 4)])
def test_published_objectives_count_own_clean_copies(name: str, value: float) -> None:
    system, z, rows = line(0, 1, 5, 9), torch.tensor([[[-1.0]]]), torch.tensor([0])
    for attack, expected in ((STRICT.attacks[name], 0), (CVPR22.attacks[name], value)):
        plan = attack.plan(some(system.gallery, [0]), system, torch.tensor([[1]]))
        assert plan.objective(z, rows).tolist() == [expected]


def test_the_published_nearest_percent_comes_after_the_first() -> None:
    distances = torch.arange(300.0, 0, -1)[None]
    assert nearest_percent(distances).tolist() == [[299, 298, 297]]
    assert nearest_percent_after_the_first(distances).tolist() == [[298, 297, 296]]
    assert nearest_percent(distances[:, :99]).tolist() == [[98]]
    assert nearest_percent_after_the_first(distances[:, :199]).tolist() == [[197]]


@pytest.mark.parametrize("name", ["ca-", "qa-"])
def test_the_published_nearest_percent_takes_the_first_for_the_image_itself(name: str) -> None:
    """Even if that is a stranger's nearest item, or another image with the same embedding."""
    system = line(0, 0, *range(2, 200))
    stranger = Gallery(torch.tensor([[-1.0]]), torch.tensor([0]), torch.tensor([999]))
    for perturbed, strict, published in ((stranger, {0, 1}, {1, 2}), (some(system.gallery, [1]), {0, 2}, {1, 2})):
        for attack, expected in ((STRICT.attacks[name], strict), (CVPR22.attacks[name], published)):
            drawn = [attack.choose(perturbed, system, generators(1, seed)).item() for seed in range(30)]
            assert set(drawn) == expected


@pytest.mark.parametrize("name", ["ca+", "qa+", "tma"])
def test_a_published_random_target_may_be_the_image_itself(name: str) -> None:
    system = line(0, 1)
    for attack, expected in ((STRICT.attacks[name], {1}), (CVPR22.attacks[name], {0, 1})):
        drawn = [attack.choose(some(system.gallery, [0]), system, generators(1, seed)).item() for seed in range(30)]
        assert set(drawn) == expected


# ---- closed forms ---------------------------------------------------------------------------------------------------

EPS = 0.1
GREY = torch.full((1, 1, 1, 1, 2), 0.5)
MATRIX = torch.tensor([[1.0, 0.4], [-0.3, 0.8]])
DESCENT = PGD(LInf(EPS), EPS / 20, 80, best=STRICT.best, schedule=STRICT.schedule)


def embed(images: Tensor) -> Tensor:
    """Two pixels to two dimensions, linearly."""
    return images.flatten(1) @ MATRIX.T


def box(points: int) -> Tensor:
    """Embeddings of the images within the radius of the grey one, on a grid, ``(n, 2)``."""
    side = torch.linspace(0.5 - EPS, 0.5 + EPS, points)
    return embed(torch.cartesian_prod(side, side))


def around(seed: int) -> System:
    """The grey image, and items on a circle beyond what it can reach."""
    angles = 6.28 * torch.rand(12, generator=torch.Generator().manual_seed(seed))
    table = embed(GREY[0]) + torch.cat([torch.zeros(1, 2), torch.stack([angles.cos(), 1.5 * angles.sin()], 1)])
    return System(*same_set(table, torch.zeros(13, dtype=torch.long)))


def reaches(objective: Objective, optimum: float) -> bool:
    rows = torch.tensor([0])
    start = objective(embed(GREY[0])[None], rows).item()
    reached = objective(embed(DESCENT(embed, GREY, objective)[0])[None], rows).item()
    assert start > optimum + 0.005
    return reached <= optimum + 0.01 * (start - optimum)


@pytest.mark.parametrize("sign", ["+", "-"])
@pytest.mark.parametrize("seed", range(4))
def test_qa_reaches_its_optimum_with_a_linear_embedder(sign: Sign, seed: int) -> None:
    system, rank = around(seed), {"+": -1, "-": 0}[sign]
    query, gallery = some(system.queries, [0]), listed(system.gallery)
    target = naive.by_distance(gallery.points[0], gallery, [0])[rank]
    plan = QA(sign).plan(query, system, torch.tensor([[target]]))
    assert reaches(
        plan.objective, min(naive.query_objective(sign, z, gallery, [target], [0]) for z in box(21).tolist())
    )


@pytest.mark.parametrize("sign", ["+", "-"])
@pytest.mark.parametrize("seed", range(4))
def test_ca_reaches_its_optimum_with_a_linear_embedder(sign: Sign, seed: int) -> None:
    system = around(seed)
    candidate, gallery = some(system.gallery, [0]), listed(system.gallery)
    plan = CA(sign).plan(candidate, system, torch.tensor([[1]]))
    asking, hidden = [gallery.points[1]], [[0, 1]]
    assert reaches(
        plan.objective, min(naive.candidate_objective(sign, z, asking, gallery, hidden) for z in box(21).tolist())
    )
