"""From records to scores: means, batches of means, intervals, robust R@1."""

from math import comb
from typing import Any

import numpy as np
import pytest

from holdfast.evaluation.protocols import COLUMNS, ers
from holdfast.evaluation.records import Record
from holdfast.evaluation.scores import LEVEL, RESAMPLES, interval, readings, share_interval, summarise, withstood
from holdfast.evaluation.words import SCORE_WORDS

ATTACKS = tuple(dict.fromkeys(column.attack for column in COLUMNS))


def record(before: dict[str, float], **after: float) -> Record:
    return {"id": 0, "chosen": [], "before": before, "after": after, "moved": 0.0}


def random_records(count: int, seed: int = 0) -> dict[str, list[Record]]:
    """What ten attacks might leave behind, readings in their units."""
    draw = np.random.default_rng(seed)
    found: dict[str, list[Record]] = {}
    for attack in ATTACKS:
        found[attack] = []
        for _ in range(count):
            after: dict[str, float] = {}
            for column in COLUMNS:
                if column.attack == attack:
                    hit = float(draw.integers(2) * 100)
                    after[column.name] = {"TMA": draw.random(), "ES:D": 2 * draw.random()}.get(column.name, hit)
            before = dict.fromkeys(after, 100.0)
            found[attack].append({"id": 0, "chosen": [], "before": before, "after": after, "moved": 0.1})
    return found


def values(found: dict[str, list[Record]], name: str) -> list[float]:
    attack = next(column.attack for column in COLUMNS if column.name == name)
    return [one["after"][name] for one in found[attack]]


def test_columns_are_means_over_images() -> None:
    found = random_records(50)
    result = summarise(found, None, seed=0)
    assert list(result["columns"]) == [column.name for column in COLUMNS]
    for column in COLUMNS:
        written = result["columns"][column.name]
        assert written["value"] == pytest.approx(sum(values(found, column.name)) / 50)
        assert (written["unit"], written["queries"]) == (SCORE_WORDS[column.name].unit, 50)
    assert result["ERS"]["value"] == pytest.approx(ers({n: c["value"] for n, c in result["columns"].items()}))


@pytest.mark.parametrize("batch", [1, 7, 10, 49, 50, 51, 128])
def test_published_columns_are_means_of_the_means_of_batches(batch: int) -> None:
    found = random_records(50)
    result = summarise(found, batch, seed=0)
    for name, column in result["columns"].items():
        of_images = values(found, name)
        means = [sum(part) / len(part) for part in (of_images[i : i + batch] for i in range(0, 50, batch))]
        assert column["value"] == pytest.approx(sum(means) / len(means))
    assert result["ERS"]["value"] == pytest.approx(ers({n: c["value"] for n, c in result["columns"].items()}))


def test_a_last_batch_of_one_counts_as_much_as_the_others() -> None:
    """The difference that means of means make."""
    found = {"ltm": [record({}, LTM=0.0)] * 4 + [record({}, LTM=100.0)]}
    assert summarise(found, None, seed=0)["columns"]["LTM"]["value"] == pytest.approx(20)
    assert summarise(found, 4, seed=0)["columns"]["LTM"]["value"] == pytest.approx(50)


@pytest.mark.parametrize("batch", [None, 7, 30, 49])
@pytest.mark.parametrize("seed", range(3))
def test_intervals_contain_the_value(batch: int | None, seed: int) -> None:
    result = summarise(random_records(50, seed), batch, seed=seed)
    for item in (*result["columns"].values(), result["ERS"], result["least R@1"]):
        assert item["low"] < item["value"] < item["high"]


def test_intervals_are_those_of_the_mean() -> None:
    """1.96 standard errors to either side for many images; none at all where the images agree."""
    found = {"ltm": [record({}, LTM=100.0 * (i % 2)) for i in range(400)], "ca+": [record({}, **{"CA+": 30.0})] * 400}
    columns = summarise(found, None, seed=0)["columns"]
    assert columns["LTM"]["low"] == pytest.approx(50 - 1.96 * 50 / 20, abs=0.6)
    assert columns["LTM"]["high"] == pytest.approx(50 + 1.96 * 50 / 20, abs=0.6)
    assert columns["CA+"]["low"] == pytest.approx(30)
    assert columns["CA+"]["high"] == pytest.approx(30)


@pytest.mark.parametrize("count", [1, 5, 30, 64])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.97, 1.0])
def test_the_interval_of_a_share_covers_it_as_often_as_it_says(share: float, count: int) -> None:
    """Counted over all that can be drawn; at the ends, too, the interval has a width."""
    covered = 0.0
    for kept in range(count + 1):
        bounds = share_interval(100 * kept / count, count)
        assert 0 <= bounds["low"] <= 100 * kept / count <= bounds["high"] <= 100
        assert bounds["low"] < bounds["high"]
        if bounds["low"] <= 100 * share <= bounds["high"]:
            covered += comb(count, kept) * share**kept * (1 - share) ** (count - kept)
    assert covered >= LEVEL / 100


def test_shares_have_exact_intervals_and_counts_and_one_value_has_none() -> None:
    """0 of 64 is up to 1 - 0.025 ** (1 / 64); all of one query is anything from 2.5 %."""
    found = random_records(64)
    for one in (*found["es"], *found["ltm"]):
        one["after"] |= dict.fromkeys(one["after"], 0.0)
    result = summarise(found, None, seed=0)
    for written in (result["columns"]["LTM"], result["columns"]["ES:R"], result["least R@1"]):
        assert (written["value"], written["low"]) == (0, 0)
        assert written["high"] == pytest.approx(100 * (1 - 0.025 ** (1 / 64)))
        assert (written["kept"], written["queries"]) == (0, 64)
    assert result["columns"]["GTT"]["kept"] == round(0.64 * result["columns"]["GTT"]["value"])
    single = summarise({"ltm": [record({}, LTM=100.0)], "ca+": [record({}, **{"CA+": 30.0})]}, None, seed=0)["columns"]
    assert (single["LTM"]["low"], single["LTM"]["high"]) == (pytest.approx(2.5), 100)
    assert (single["CA+"]["low"], single["CA+"]["high"]) == (None, None)


def test_batches_of_other_sizes_widen_the_interval_of_a_share() -> None:
    found = {"ltm": [record({}, LTM=0.0)] * 5}
    even, uneven = (summarise(found, batch, seed=0)["columns"]["LTM"]["high"] for batch in (5, 4))
    assert uneven > even


def test_the_interval_is_of_percentiles() -> None:
    assert LEVEL == 95
    assert interval(np.arange(1001.0)) == {"low": pytest.approx(25), "high": pytest.approx(975)}


def test_images_are_drawn_together() -> None:
    """Scores that are one another's opposite image by image leave no doubt about their sum."""
    found = random_records(40)
    for i, (one, other) in enumerate(zip(found["ltm"], found["gtm"], strict=True)):
        one["after"]["LTM"], other["after"]["GTM"] = 100.0 * (i % 2), 100.0 - 100.0 * (i % 2)
    constant = {"CA+": 10, "CA-": 10, "QA+": 10, "QA-": 10, "TMA": 0.5, "ES:D": 1, "ES:R": 0, "GTT": 0}
    for attack in ATTACKS:
        for one in found[attack]:
            one["after"] = {name: constant.get(name, value) for name, value in one["after"].items()}
    result = summarise(found, None, seed=0)
    assert result["columns"]["LTM"]["high"] > result["columns"]["LTM"]["low"] + 10
    assert result["ERS"]["high"] == pytest.approx(result["ERS"]["low"])


def test_the_seed_decides_the_intervals() -> None:
    one, again, other = (summarise(random_records(30), None, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one["ERS"]["value"] == other["ERS"]["value"]
    assert one["ERS"] != other["ERS"]


def test_the_least_r_at_1_counts_queries_that_withstand_every_attack() -> None:
    found: dict[str, Any] = random_records(6)
    benign = [100.0, 100.0, 100.0, 100.0, 0.0, 50.0]
    survived = {
        "ES:R": [100, 0, 100, 100, 100, 100],
        "LTM": [100, 100, 0, 100, 100, 100],
        "GTM": [100, 100, 100, 50, 100, 100],
    }
    for column in COLUMNS:
        for i in range(6):
            if column.name in survived:
                found[column.attack][i]["after"][column.name] = float(survived[column.name][i])
            if column.attack == "es":
                found["es"][i]["before"]["ES:R"] = benign[i]
    assert withstood(found).tolist() == [100, 0, 0, 50, 0, 50]
    result = summarise(found, None, seed=0)["least R@1"]
    assert result["value"] == pytest.approx(200 / 6)
    assert result["low"] < result["value"] < result["high"]
    assert summarise(found, 4, seed=0)["least R@1"]["value"] == pytest.approx((150 / 4 + 50 / 2) / 2)


def test_without_all_attacks_there_is_no_score() -> None:
    found = random_records(10)
    del found["ltm"]
    result = summarise(found, None, seed=0)
    assert (result["ERS"], result["least R@1"]) == (None, None)
    assert len(result["columns"]) == 9
    found = {attack: random_records(10)[attack] for attack in ("es", "ltm", "gtm")}
    result = summarise(found, None, seed=0)
    assert result["ERS"] is None
    assert result["least R@1"] is not None


def test_readings_outside_the_ten_scores_are_summarised_too() -> None:
    found = {"oa": [{"after": {"OA": 0.5, "OA kept": 3.0}}] * 3}
    columns = summarise(found, None, seed=0)["columns"]
    assert (columns["OA"]["value"], columns["OA kept"]["value"], columns["OA"]["unit"]) == (0.5, 3.0, "")


def test_attacks_may_have_different_numbers_of_images() -> None:
    found = {"ltm": [record({}, LTM=100.0)] * 3, "gtm": [record({}, GTM=20.0)] * 5}
    columns = summarise(found, None, seed=0)["columns"]
    assert [columns[name]["queries"] for name in ("LTM", "GTM")] == [3, 5]
    assert readings(found["gtm"], "GTM").tolist() == [20.0] * 5
    assert RESAMPLES >= 1000
