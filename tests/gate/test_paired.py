"""The drop of a score: closed forms, a naive sign test, and how often noise fails a build and a drop is missed."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.evaluation.result import ROBUST
from holdfast.gate.decide import RULED_OUT, Verdict, verdict_of
from holdfast.gate.paired import Drop, drop_between, resampled, sign_test
from holdfast.gate.values import Each, values_of
from holdfast.report import find
from holdfast.util.errors import HoldfastError
from tests.helpers.gated import evaluation

RESAMPLINGS, QUERIES, POPULATION = 200, 256, 2000


def each(
    values: list[float], ids: list[int] | None = None, chosen: tuple[tuple[int, ...], ...] = ()
) -> dict[str, Each]:
    return {"x": Each(tuple(ids or range(len(values))), np.array(values), 0.0, 100.0, chosen)}


@pytest.mark.parametrize(("worse", "better"), [*product(range(5), range(5)), (9, 2), (2, 9)])
def test_the_sign_test_counts_all_ways_that_coins_fall(worse: int, better: int) -> None:
    flips = worse + better
    at_least = sum(sum(coins) >= worse for coins in product((0, 1), repeat=flips))
    assert sign_test(worse, better) == pytest.approx(at_least / 2**flips)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40), st.booleans())
def test_a_drop_is_the_difference_of_the_means_and_lies_in_its_interval(
    pairs: list[tuple[int, int]], lower: bool
) -> None:
    old, new = ([100.0 * pair[side] for pair in pairs] for side in (0, 1))
    drop = drop_between(each(old), each(new), lower)
    seen = (np.mean(new) - np.mean(old)) * (1 if lower else -1)
    assert drop.seen == pytest.approx(seen)
    assert drop.low <= drop.seen + 200 / (len(pairs) + 2)
    assert drop.low < drop.high
    fallen, risen = (sum(sign * (a - b) > 0 for a, b in zip(old, new, strict=True)) for sign in (1, -1))
    assert (drop.worse, drop.better) == ((risen, fallen) if lower else (fallen, risen))
    assert (drop.queries, drop.scale) == (len(pairs), 100.0)


def test_the_interval_is_that_of_the_normal_where_queries_are_many() -> None:
    """400 queries, 40 lost and 10 gained: 7.5 points, of which the standard error is known in closed form."""
    old = [100.0] * 40 + [0.0] * 10 + [0.0] * 350
    new = [0.0] * 40 + [100.0] * 10 + [0.0] * 350
    drop = drop_between(each(old), each(new))
    assert drop.seen == pytest.approx(7.5)
    error = 100 * ((41 / 402 + 11 / 402 - (30 / 402) ** 2) / 402) ** 0.5
    middle = 100 * 30 / 402
    assert drop.low == pytest.approx(middle - 1.96 * error, abs=0.3)
    assert drop.high == pytest.approx(middle + 1.96 * error, abs=0.3)
    assert drop.shown


def test_the_interval_is_that_of_the_bootstrap_image_by_image() -> None:
    """The slow twin draws images one by one; two columns of one length, and one of another."""
    generator = np.random.default_rng(1)
    columns = {"a": generator.normal(size=40), "b": generator.integers(0, 2, 40) * 5.0, "c": generator.normal(size=90)}
    ends = {"a": (-3.0, 3.0), "b": (0.0, 5.0), "c": (-3.0, 3.0)}
    known = {name: np.append(values, ends[name]) for name, values in columns.items()}
    sums = []
    for _ in range(4000):
        drawn = {length: generator.integers(0, length, length) for length in (42, 92)}
        sums.append(sum(values[drawn[len(values)]].mean() for values in known.values()))
    wanted = np.percentile(sums, [2.5, 97.5])
    assert resampled(columns, ends) == pytest.approx(tuple(wanted), abs=0.1)


def test_queries_that_all_agree_do_not_rule_out_everything() -> None:
    few, many = (drop_between(each([100.0] * n), each([100.0] * n)) for n in (20, 2000))
    assert few.seen == many.seen == 0
    assert few.high > 10
    assert 0 < many.high < 1
    assert not few.shown


def test_a_query_without_a_record_fails_in_both() -> None:
    old = each([100.0, 100.0, 0.0, 0.0], [3, 8, -1, -1])
    new = each([100.0, 0.0, 0.0, 0.0], [5, 3, -1, -1])
    drop = drop_between(old, new)
    assert (drop.worse, drop.better) == (2, 1)  # 3 and 8 are lost, 5 is gained
    assert drop.seen == pytest.approx(25)


def test_other_queries_and_other_targets_are_refused() -> None:
    for old, new, why in (
        (each([1.0, 2.0]), each([1.0]), "1 query here, 2 in the baseline"),
        (each([1.0, 2.0], [0, 1]), each([1.0, 2.0], [0, 2]), "the queries are not those"),
        (each([1.0, 2.0], [0, -1]), each([1.0, 2.0], [7, 8]), "the queries are not those"),
        (each([1.0], [4], ((1,),)), each([1.0], [4], ((2,),)), "query 4 was attacked toward another image"),
    ):
        with pytest.raises(HoldfastError, match=why):
            drop_between(old, new)


def populations(folder: Path, dropped: float, noise: float) -> tuple[Each, Each]:
    """Robust R@1 of a population, before and after: a share that is lost, and a share that changes either way."""
    at, lost, changed = np.arange(POPULATION), round(POPULATION * dropped), round(POPULATION * noise)
    alike = (at >= lost + 2 * changed) & (at < 0.6 * POPULATION)
    old = (at < lost + changed) | alike
    new = ((at >= lost + changed) & (at < lost + 2 * changed)) | alike
    found = []
    for name, robust in {"old": old, "new": new}.items():
        evaluation(folder / name, [True] * POPULATION, robust.tolist())
        (result,) = find([folder / name])
        found.append(values_of(result, ROBUST)[ROBUST])
    assert found[0].values.mean() - found[1].values.mean() == pytest.approx(100 * dropped)
    return found[0], found[1]


def verdicts(old: Each, new: Each, times: int, allowed: float) -> list[Verdict]:
    """The verdicts on so many samples of queries."""
    generator, found = np.random.default_rng(0), []
    for i in range(times):
        drawn = generator.integers(0, POPULATION, QUERIES)
        ids = tuple(range(QUERIES))
        pair = ({"x": Each(ids, one.values[drawn], 0.0, 100.0)} for one in (old, new))
        drop: Drop = drop_between(*pair, seed=i)
        found.append(verdict_of(drop, allowed, RULED_OUT)[0])
    return found


def test_noise_fails_at_most_one_build_in_twenty(tmp_path: Path) -> None:
    found = verdicts(*populations(tmp_path, dropped=0.0, noise=0.02), RESAMPLINGS, allowed=2)
    assert found.count(Verdict.FAIL) <= 0.05 * RESAMPLINGS
    assert found.count(Verdict.PASS) >= 0.9 * RESAMPLINGS


def test_a_drop_of_five_points_is_missed_at_most_once_in_ten(tmp_path: Path) -> None:
    """A miss is anything but a fail."""
    found = verdicts(*populations(tmp_path, dropped=0.05, noise=0.0), RESAMPLINGS, allowed=2)
    assert found.count(Verdict.FAIL) >= 0.9 * RESAMPLINGS


def test_a_drop_of_five_points_does_not_pass_by_luck_where_noise_is_large(tmp_path: Path) -> None:
    found = verdicts(*populations(tmp_path, dropped=0.05, noise=0.05), 60, allowed=2)
    assert found.count(Verdict.PASS) <= 0.1 * 60
    assert Verdict.CANNOT_TELL in found
