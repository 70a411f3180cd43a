"""Attacks by answers alone, against a slow twin that works on lists of ids."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from holdfast.attacks import System
from holdfast.attacks.base import attack_images
from holdfast.attacks.feedback import RankFeedback, RankPromotion, rank_weights, without_own
from holdfast.core.gallery import Gallery, Queries
from holdfast.core.gradients import Square
from holdfast.core.pgd import PGD
from holdfast.core.steps import LInf
from holdfast.util.errors import HoldfastError
from tests.oracles import feedback as slow
from tests.oracles.attacks import generators

ITEMS, SIDE, DIM = 30, 6, 4
CODES = st.lists(st.integers(0, 11), min_size=0, max_size=8, unique=True)


def padded(answers: list[list[int]], width: int) -> Tensor:
    return torch.tensor([one + [-1] * (width - len(one)) for one in answers], dtype=torch.float64)


def names(answer: Tensor | list[int]) -> list[str]:
    return [str(int(one)) for one in answer if one >= 0]


def system(clean: Tensor, ids: list[int], items: int = 0, near: Tensor | None = None) -> System:
    rows = torch.arange(items)
    answers = torch.full((items, clean.shape[1]), -1.0).double() if near is None else near
    labels = torch.arange(items) % 3
    asked = torch.tensor(ids)
    return System(Queries(clean, asked % 3, asked), Gallery(answers, labels, rows))


def test_weights_fall_with_the_rank() -> None:
    weights = rank_weights(3)
    assert sum(weights) == pytest.approx(1)
    assert weights[0] / weights[1] == pytest.approx(math.log2(3))
    assert weights[0] / weights[2] == pytest.approx(2)


@given(st.lists(st.tuples(CODES, CODES, st.integers(0, 11)), min_size=1, max_size=4), st.integers(1, 6))
def test_what_is_left_of_an_answer(rows: list[tuple[list[int], list[int], int]], k: int) -> None:
    clean, now = (padded([row[i] for row in rows], 8) for i in (0, 1))
    ids = [own for _, _, own in rows]
    shop = system(clean, ids, 12)
    plan = RankFeedback(k).plan(shop.queries, shop, torch.empty(len(rows), 0))
    values, found = plan.objective(now[:, None], torch.arange(len(rows))), plan.outcome(now)
    for i, (before, after, own) in enumerate(rows):
        reference, answer = (slow.seen(names(one), str(own), k) for one in (before, after))
        assert values[i].item() == pytest.approx(slow.left(answer, reference, k))
        assert found["kept"][i].item() == pytest.approx(100 * slow.left(answer, reference, k))
        assert found["first replaced"][i] == (answer[:1] == [] or answer[0] not in reference)
        assert found["all replaced"][i] == (not set(answer) & set(reference))
        assert found["first wrong"][i] == (answer == [] or int(answer[0]) % 3 != own % 3)
        assert (values[i] == plan.objective.floor) == (not set(answer) & set(reference))


@given(st.lists(st.tuples(CODES, CODES, st.integers(0, 11)), min_size=1, max_size=4), st.integers(1, 6))
def test_what_an_answer_is_worth_to_who_promotes(rows: list[tuple[list[int], list[int], int]], k: int) -> None:
    near = torch.full((12, 8), -1.0).double()
    for around, _, item in rows:
        near[item] = padded([around], 8)[0]
    now, ids = padded([answer for _, answer, _ in rows], 8), [100 + i for i in range(len(rows))]
    shop = system(now, ids, 12, near)
    plan = RankPromotion(k).plan(shop.queries, shop, torch.tensor([[item] for _, _, item in rows]))
    values, found = plan.objective(now[:, None], torch.arange(len(rows))), plan.outcome(now)
    for i, (_, after, item) in enumerate(rows):
        answer, around = names(after)[:k], slow.seen(names(near[item]), str(item), k)
        assert values[i].item() == pytest.approx(slow.promotion(answer, str(item), around, k))
        assert found["rank"][i] == (answer.index(str(item)) + 1 if str(item) in answer else k + 1)
        assert found["in the answer"][i] == (str(item) in answer)
        assert found["on top"][i] == (answer[:1] == [str(item)])
        assert (values[i] == plan.objective.floor) == (answer[:1] == [str(item)])
        assert values[i] >= plan.objective.floor


def test_milestones_say_at_which_search_they_were_reached() -> None:
    clean = padded([[1, 2, 3], [4, 5, 6]], 3)
    shop = system(clean, [100, 101])
    plan = RankFeedback(3).plan(shop.queries, shop, torch.empty(2, 0))
    both, second = torch.arange(2), torch.tensor([1])
    plan.objective(clean[:, None], both)
    plan.objective(padded([[9, 1, 2], [5, 4, 6]], 3)[:, None], both)
    plan.objective(padded([[7, 8, 9]], 3)[:, None], second)
    plan.objective(clean[1:, None], second)
    found = plan.outcome(clean)
    assert "first wrong" not in found
    assert found["first replaced"].tolist() == [2, 3]
    assert found["all replaced"].tolist() == [0, 3]


def test_its_own_entry_is_left_out_of_an_answer() -> None:
    answers = padded([[5, 1, 2], [1, 5, 2], [1, 2], [5]], 3)
    assert without_own(answers, torch.tensor([5] * 4), 2).tolist() == [[1, 2], [1, 2], [1, 2], [-1, -1]]


def test_items_to_promote_are_drawn_from_beyond_the_answer() -> None:
    clean = padded([[1, 2], [3, 4]], 3)
    shop = system(clean, [0, 5], 9)
    drawn = torch.cat([RankPromotion(2).choose(shop.queries, shop, generators(2, i)) for i in range(60)], 1)
    assert set(drawn[0].tolist()) == {3, 4, 5, 6, 7, 8}
    assert set(drawn[1].tolist()) == {0, 1, 2, 6, 7, 8}
    assert RankPromotion(2, item=7).choose(shop.queries, shop, generators(2)).tolist() == [[7], [7]]
    with pytest.raises(HoldfastError, match="no item 99"):
        RankPromotion(2, item=99).choose(shop.queries, shop, generators(2))
    with pytest.raises(HoldfastError, match="gallery is too small"):
        RankPromotion(8).choose(shop.queries, shop, generators(2))


# ---- whole attacks ---------------------------------------------------------------------------------------------------


def world(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A linear model (36, 4), items (30, 4), and images (5, 1, 6, 6)."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(SIDE * SIDE, DIM, generator=draw)
    images = torch.rand(5, 1, SIDE, SIDE, generator=draw)
    items = torch.rand(ITEMS, SIDE * SIDE, generator=draw) @ weight
    return weight, items, images


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("attack", [RankFeedback(5), RankPromotion(5, item=3)], ids=["feedback", "promotion"])
def test_the_attack_is_its_twin_step_by_step(attack: RankFeedback | RankPromotion, seed: int) -> None:
    weight, items, images = world(seed)
    asked: list[list[str]] = []

    def near(vectors: Tensor) -> Tensor:
        return torch.cdist(vectors, items).argsort(dim=1)[:, :6].double()

    def embed(shown: Tensor) -> Tensor:
        found = near(shown.flatten(1) @ weight)
        asked.extend(names(one) for one in found)
        return found

    eps, searches, k = 0.15, 60, attack.k
    clean, ids = embed(images), [100 + i for i in range(len(images))]
    shop = system(clean, ids, ITEMS, near(items))
    chosen = attack.choose(shop.queries, shop, generators(5, 9))
    pgd = PGD(LInf(eps), 2 * eps, searches - 1, gradient=Square(accept=torch.le))
    found = attack_images(attack, embed, shop, shop.queries, images, chosen=chosen, pgd=pgd, generators=generators(5))

    def search(image: list[list[float]]) -> list[str]:
        return names(near(torch.tensor(image).flatten()[None] @ weight)[0])

    total = 0
    for i, image in enumerate(images[:, 0].tolist()):
        value: Any
        if isinstance(attack, RankFeedback):
            reference, floor = search(image)[:k], 0.0
            value = lambda answer, reference=reference: slow.left(answer[:k], reference, k)  # noqa: E731
        else:
            around = slow.seen(names(near(items[3:4])[0]), "3", k)
            value = lambda answer, around=around: slow.promotion(answer[:k], "3", around, k)  # noqa: E731
            floor = value(["3"])
        course = slow.square_attack(
            search, image, value, floor=floor, eps=eps, searches=searches, generator=generators(5)[i]
        )
        total += len(course.answers)
        torch.testing.assert_close(found.images[i, 0], torch.tensor(course.image), rtol=0, atol=1e-6)
        met = [j for j, one in enumerate(course.answers, 1) if value(one) <= floor]
        name = "all replaced" if isinstance(attack, RankFeedback) else "on top"
        assert found.after[name][i] == (met[0] if met else 0)
    assert len(asked) == total + 5  # the last look at each image, which a log answers


def test_equal_moves_lead_off_a_plateau() -> None:
    """A step that is a stair above the clean image is out of reach of one square, and of no walk."""
    images = torch.full((8, 1, SIDE, SIDE), 0.5)

    def embed(shown: Tensor) -> Tensor:
        high = (shown.flatten(1).sum(1) > 18 + 1.2)[:, None]
        return torch.where(high, torch.tensor([[7.0, 8.0]]), torch.tensor([[1.0, 2.0]])).double()

    shop = system(embed(images), list(range(100, 108)))
    pgd = PGD(LInf(0.1), 0.2, 300, gradient=Square(accept=torch.le))

    def replaced(pgd: PGD) -> int:
        found = attack_images(
            RankFeedback(2),
            embed,
            shop,
            shop.queries,
            images,
            chosen=torch.empty(8, 0),
            pgd=pgd,
            generators=generators(8),
        )
        return int((found.after["all replaced"] > 0).sum())

    assert replaced(replace(pgd, gradient=Square())) == 0
    assert replaced(pgd) > 4
