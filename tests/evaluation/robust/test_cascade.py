"""Robust R@1: survivors only, the same in any batch and after a kill, honest where gradients or attacks fail."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from holdfast.evaluation.evaluate import evaluate, prepared
from holdfast.evaluation.protocols import CASCADE, Stage
from holdfast.evaluation.records import Records
from holdfast.evaluation.result import Result, read
from holdfast.evaluation.robust import cascade
from holdfast.evaluation.settings import resolve_settings
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.util.progress import Progress
from tests.helpers.result_files import write
from tests.helpers.tiny import counted, digits, embedder, lasting, records, rows

MODEL = embedder()
WORST: dict[str, Any] = {"protocol": "worst", "eps": 0.06, "max_queries": 40, "quiet": True, "device": "cpu"}
SHORT = tuple(replace(one, steps=3) for one in CASCADE)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of three steps."""
    monkeypatch.setattr(cascade, "CASCADE", SHORT)


def worst(model: Callable[[Tensor], Tensor] = MODEL, **settings: Any) -> Result:
    return evaluate(model, digits(), **{**WORST, "checks": False, **settings})


@pytest.mark.usefixtures("short")
def test_each_stage_meets_the_queries_that_all_before_have_left(tmp_path: Path) -> None:
    result = worst(folder=tmp_path, eps=0.03)
    assert result.path is not None
    robust, place = result.content["robust R@1"], result.path.parent / "records"
    assert [stage["name"] for stage in robust["stages"]] == [stage.name for stage in CASCADE]
    left = {record["id"] for record in rows(place / "worst.margin.jsonl") if record["before"]["R@1"] > 0}
    assert result.counts("sample R@1") == (len(left), 40)
    assert result.sampled == (result.content["benign"]["queries"] > 40)
    derived = Result(None, {key: value for key, value in result.content.items() if key != "sample R@1"})
    assert derived.number("sample R@1") == result.number("sample R@1")
    near = dict.fromkeys(left, float("inf"))
    for stage, asked in zip(robust["stages"], CASCADE, strict=True):
        file = place / f"worst.{stage['name']}.jsonl"
        found = rows(file) if file.exists() else []
        tried = {identity for identity in left if near[identity] <= asked.within}
        assert {record["id"] for record in found} == tried
        near |= {record["id"]: min(near[record["id"]], record["after"]["margin"]) for record in found}
        broken = {record["id"] for record in found if record["after"]["R@1"] == 0}
        assert (stage["tried"], stage["broke"]) == (len(tried), len(broken))
        left -= broken
    assert robust["kept"] == len(left)
    assert robust["value"] == pytest.approx(100 * len(left) / robust["queries"])
    assert 0 < robust["value"] < result.content["benign"]["R@1"]


@pytest.mark.usefixtures("short")
def test_it_is_the_same_in_any_batch_and_after_a_kill(tmp_path: Path) -> None:
    whole, small = worst(folder=tmp_path / "whole"), worst(folder=tmp_path / "small", batch=7)
    assert records(tmp_path / "whole") == records(tmp_path / "small")
    assert whole.content["robust R@1"]["value"] == small.content["robust R@1"]["value"]
    embed, calls = counted(MODEL)
    worst(embed)
    with pytest.raises(KeyboardInterrupt):
        worst(counted(MODEL, calls[0] // 2)[0], folder=tmp_path / "killed")
    again = worst(counted(MODEL)[0], folder=tmp_path / "killed")
    complete = worst(counted(MODEL)[0], folder=tmp_path / "complete")
    assert lasting(again.content) == lasting(complete.content)
    assert records(tmp_path / "killed") == records(tmp_path / "complete")


def test_a_stage_for_the_closest_meets_those_that_were_brought_so_near(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = replace(SHORT[0], name="first"), replace(SHORT[0], name="then", steps=1)
    monkeypatch.setattr(cascade, "CASCADE", stages)

    def tried(folder: Path, *names: str) -> list[list[dict[str, Any]]]:
        result = worst(folder=folder, eps=0.03)
        assert result.path is not None
        return [rows(result.path.parent / "records" / f"worst.{name}.jsonl") for name in names]

    first, then = tried(tmp_path / "all", "first", "then")
    margins = {record["id"]: record["after"]["margin"] for record in first}
    least = {one["id"]: min(margins[one["id"]], one["after"]["margin"]) for one in then if one["after"]["R@1"] > 0}
    limit = sorted(least.values())[len(least) // 3]
    monkeypatch.setattr(cascade, "CASCADE", (*stages, replace(SHORT[0], name="last", within=limit)))
    (last,) = tried(tmp_path / "near", "last")
    assert {record["id"] for record in last} == {identity for identity, margin in least.items() if margin <= limit}
    assert 0 < len(last) < len(least)


def test_it_falls_with_the_radius_and_below_every_quick_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "CASCADE", CASCADE[:3])
    values = [worst(eps=eps).number("robust R@1") for eps in (0, 0.03, 0.06, 0.3)]
    assert all(value is not None for value in values)
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    assert values[0] == worst(eps=0).content["robust R@1"]["value"] > values[1] > values[-1] == 0  # type: ignore[operator]
    quick = worst(protocol="strict", attacks=("es", "ltm", "gtm"), steps=8, cascade=True)
    assert quick.number("robust R@1") == values[2]
    assert all(quick.number(name) >= values[2] for name in ("ES:R", "LTM", "GTM"))  # type: ignore[operator]


def test_adam_breaks_what_the_sign_of_the_gradient_does_not(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five queries of the zoo's HM that were once called robust at 32/255. Roundings decide the end of a single one."""
    monkeypatch.setattr(cascade, "CASCADE", CASCADE[:3])
    opened, rows = open_model("zoo:fashion-hm-s-lga-ics"), torch.tensor([94, 2395, 4296, 5330, 8444])
    pixels, budget = (
        load_test_set(opened, root=real_data / "fashion-mnist"),
        resolve_settings("28", "worst", eps=32 / 255),
    )
    with prepared(opened.embed, pixels, budget, "cpu", quiet=True) as target, Progress("", 5, quiet=True) as progress:
        found, _ = cascade.robust_recall(target, budget, rows, Records(None), progress, batch=64)
    margin, odds, adam = (one["broke"] for one in found["stages"])
    assert margin + odds <= 1
    assert adam >= 3


def test_restarts_break_what_was_closest_to_breaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two queries of the zoo's plain digits model that were once called robust at 32/255."""
    opened, rows = open_model("zoo:digits-none-r"), torch.tensor([777, 785])
    pixels, budget = load_test_set(opened), resolve_settings("28", "worst", eps=32 / 255)
    stages = tuple(stage for stage in CASCADE if stage.name in {"margin", "odds", "closest-margin"})
    monkeypatch.setattr(cascade, "CASCADE", stages)
    with prepared(opened.embed, pixels, budget, "cpu", quiet=True) as target, Progress("", 6, quiet=True) as progress:
        found, _ = cascade.robust_recall(target, budget, rows, Records(None), progress, batch=64)
    margin, odds, closest = found["stages"]
    assert margin["broke"] + odds["broke"] == 0
    assert (closest["tried"], closest["broke"]) == (2, 2)


def test_square_breaks_what_hides_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded pixels have no gradient: every stage but Square is blind."""
    monkeypatch.setattr(cascade, "CASCADE", (SHORT[0], CASCADE[-1]))

    def rounded(images: Tensor) -> Tensor:
        blind = (images * 6).round() / 6
        return MODEL(blind + 0 * images)

    stages = {one["name"]: one for one in worst(rounded, eps=0.3).content["robust R@1"]["stages"]}
    assert stages["margin"]["broke"] == 0
    assert stages["square"]["broke"] > stages["square"]["tried"] / 2


def test_more_steps_show_that_it_has_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Stage("margin", CASCADE[0].attack, 1, lasting=True)
    monkeypatch.setattr(cascade, "CASCADE", (one,))
    weak = evaluate(MODEL, digits(), **{**WORST, "eps": 0.1})
    assert weak.content["robust R@1"]["converged"] is False
    assert weak.verdict == "not converged"
    monkeypatch.undo()
    strong = evaluate(MODEL, digits(), **{**WORST, "eps": 0.1})
    assert strong.content["robust R@1"]["converged"] is True
    assert strong.verdict == "ok"
    assert strong.number("robust R@1") < weak.number("robust R@1")  # type: ignore[operator]


def test_a_black_box_meets_square_and_nes_within_its_budget() -> None:
    """Counted by the model as well: every image that an attack asks about, and none to fill up a pass."""
    result = worst(gradient="square", eps=0.1, query_budget=60)
    square, nes = result.content["robust R@1"]["stages"]
    assert (square["name"], nes["name"]) == ("square", "nes")
    assert square["broke"] > 0
    assert nes["tried"] == square["tried"] - square["broke"] > 0
    assert all(one["tried"] < one["asked"] <= 60 * one["tried"] for one in (square, nes))
    assert result.asked == (square["asked"] + nes["asked"]) / 40
    assert result.verdict == "unchecked, upper bound"
    longer = worst(gradient="square", eps=0.1, query_budget=400)
    assert longer.number("robust R@1") < result.number("robust R@1")  # type: ignore[operator]


def test_a_small_budget_leaves_nes_out() -> None:
    (stage,) = worst(gradient="square", eps=0.1, query_budget=40).content["robust R@1"]["stages"]
    assert stage["name"] == "square"


def test_older_files_have_the_least_of_three_instead(tmp_path: Path) -> None:
    old = read(write(tmp_path / "old.json", **{"robust R@1": None}))
    assert old.number("robust R@1") is None
    content = {"value": 18.75, "low": 9.0, "high": 29.0}
    path = write(tmp_path / "a.json", **{"robust R@1": None})
    path.write_text(path.read_text().replace('"checks"', f'"robust R@1": {content}, "checks"'.replace("'", '"'), 1))
    found = read(path)
    assert (found.number("least R@1"), found.number("robust R@1")) == (18.75, None)
    assert found.verdict == "ok"


def test_with_another_models_gradients_square_still_asks_the_target(monkeypatch: pytest.MonkeyPatch) -> None:
    """What transfers is tried first; the target, whose gradients nothing sees, is then asked step by step."""
    steps = 40
    monkeypatch.setattr(cascade, "CASCADE", (SHORT[0], replace(CASCADE[-1], steps=steps)))
    blind, calls = counted(lambda images: MODEL(images).detach())
    margin, square = worst(blind, surrogate=MODEL).content["robust R@1"]["stages"]
    assert margin["broke"] == worst().content["robust R@1"]["stages"][0]["broke"] > 0
    assert square["tried"] > 0
    both, calls[0] = calls[0], 0
    monkeypatch.setattr(cascade, "CASCADE", SHORT[:1])
    worst(blind, surrogate=MODEL)
    assert both - calls[0] > steps


def test_the_most_that_a_query_can_meet_is_told_beforehand(capsys: pytest.CaptureFixture[str]) -> None:
    settings = resolve_settings("28", "worst", eps=0.1)
    approaches = sum(stage.attack.toward is not None for stage in CASCADE)
    descents = sum(stage.steps for stage in CASCADE for _ in range(1 + stage.restarts))
    assert cascade.most_steps(settings) == descents + 50 * approaches
    assert cascade.most_steps(replace(settings, gradient="square")) == sum(stage.steps for stage in cascade.BLACK_BOX)
    assert cascade.most_steps(replace(settings, eps=0.0)) == 0
    evaluate(MODEL, digits(), steps=2, eps=0.0, max_queries=4, checks=False, device="cpu")
    assert "then robust R@1" not in capsys.readouterr().out


@pytest.mark.usefixtures("short")
def test_an_evaluation_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(MODEL, digits(), steps=1, eps=0.1, max_queries=2, checks=False, device="cpu")
    assert "; then robust R@1: at most " in capsys.readouterr().out
