"""Minimal ε: closed forms, a twin that knows one query and no batch, and one curve with robust R@1."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.core.pgd import PGD, Adaptive
from holdfast.core.steps import LInf
from holdfast.data import Pixels, Table
from holdfast.evaluation.evaluate import evaluate, prepared
from holdfast.evaluation.protocols import CASCADE, TRIALS, Stage
from holdfast.evaluation.result import Result, read
from holdfast.evaluation.robust import cascade, minimal
from holdfast.evaluation.runner import Target, generators_of
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import counted, digits, embedder, lasting, records, rows

MODEL = embedder()
SEARCH: dict[str, Any] = {
    **{"protocol": "worst", "eps": 0.03, "max_queries": 12, "minimal_eps": True},
    **{"quiet": True, "device": "cpu", "checks": False},
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages of few steps."""
    monkeypatch.setattr(cascade, "CASCADE", tuple(replace(one, steps=6) for one in CASCADE[:2]))
    monkeypatch.setattr(minimal, "TRIALS", (replace(TRIALS[0], steps=6, restarts=0),))
    monkeypatch.setattr(minimal, "HALVINGS", 4)


def search(model: Callable[[Tensor], Tensor] = MODEL, **settings: Any) -> Result:
    return evaluate(model, digits(), **{**SEARCH, **settings})


def found(result: Result) -> dict[str, Any]:
    assert result.minimal_eps is not None
    return result.minimal_eps


def between_two(queries: int, side: int = 6) -> Pixels:
    """Grey images: a gallery of one image of each of two classes, and queries somewhat like one of them."""
    chance = np.random.default_rng(0)
    gallery = chance.integers(100, 156, (2, side, side))
    labels = np.arange(2 + queries) % 2
    images = np.concatenate([gallery, gallery[labels[2:]] + chance.integers(-20, 21, (queries, side, side))])
    mine = np.arange(2 + queries) >= 2
    table = Table.build("two", images.astype(np.uint8), labels, ["test"] * len(labels), is_query=mine, is_gallery=~mine)
    return Pixels(table, side, channels=1)


@pytest.mark.parametrize(("norm", "dual", "eps"), [("linf", 1, 0.026), ("l2", 2, 0.13)])
def test_a_linear_embedder_is_broken_at_its_boundary(
    norm: str, dual: int, eps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the unit sphere two items are equally near where ``⟨Wx, a − b⟩ = 0``: a plane, at a known distance of x."""
    monkeypatch.setattr(cascade, "CASCADE", CASCADE[:1])
    monkeypatch.setattr(minimal, "TRIALS", TRIALS[:1])
    pixels = between_two(20)
    x = pixels.read(torch.arange(22))[0].flatten(1)
    weight = torch.randn(12, 36, generator=torch.Generator().manual_seed(0))
    weight = weight - (weight @ x[:2].mean(0))[:, None] / x[:2].mean(0).sum()  # between the two nothing has a direction
    settings = {**SEARCH, "eps": eps, "norm": norm, "max_queries": None}
    result = evaluate(lambda images: images.flatten(1) @ weight.T, pixels, **settings)
    z = normalize(x @ weight.T, dim=1)
    plane = weight.T @ (z[0] - z[1])
    signs = 1 - 2 * (torch.arange(22) % 2)
    exact = (signs * (x @ plane) / plane.norm(p=dual)).clamp(min=0).tolist()[2:]
    assert min(sum(0 < one <= eps for one in exact), sum(one > eps for one in exact)) >= 3
    for (_, size), distance in zip(found(result)["each"], exact, strict=True):
        assert (size is None) == (distance > eps)
        assert size is None or distance - 1e-5 <= size <= distance + eps / 200


def alone(target: Target, row: int, resolved: AttackSettings) -> float | None:
    """Of the query at a row, by the naive way: a ball of each radius is made anew; None where nothing breaks it."""
    rows = torch.tensor([row])
    query, system = target.system.queries.take(rows), target.system
    image, number = target.pixels.read(query.ids)[0], int(query.ids)

    def wrong(x: Tensor) -> bool:
        with torch.no_grad():
            distances = (target.model(x) - system.gallery.embeddings).norm(dim=1)
        distances[system.gallery.ids == number] = torch.inf
        return bool(system.gallery.labels[distances.argmin()] != query.labels[0])

    def attacked(stage: Stage, name: str, eps: float, start: Tensor | None) -> Tensor:
        plan = stage.attack.plan(query, system, stage.attack.choose(query, system, []))
        pgd = PGD(LInf(eps), 2 * eps, stage.steps, schedule=Adaptive(), best=True)
        generators, groups = generators_of(name, resolved.seed, [number]), image[:, None]
        initial = None if start is None else start[:, None]
        return pgd(target.model, groups, plan.objective, generator=generators, initial=initial)[:, 0]

    if wrong(image):
        return 0.0
    for stage in cascade.CASCADE:
        best = attacked(stage, "worst." + stage.name, resolved.eps, None)
        if wrong(best):
            break
    else:
        return None
    low, high = 0.0, float((best - image).abs().max())
    for i in range(minimal.HALVINGS):
        trial = (low + high) / 2
        near = attacked(minimal.TRIALS[0], f"minimal.{i}.soft", trial, image + (best - image) * trial / high)
        if wrong(near):
            best, high = near, float((near - image).abs().max())
        else:
            low = trial
    return high


@pytest.mark.usefixtures("short")
def test_it_is_what_a_search_for_one_query_alone_finds() -> None:
    sizes = found(search())["each"]
    resolved = resolve_settings("28", "worst", eps=0.03)
    with prepared(MODEL, digits(), resolved, "cpu", quiet=True) as target:
        place = {number: row for row, number in enumerate(target.system.queries.ids.tolist())}
        for number, size in sizes:
            assert size == pytest.approx(alone(target, place[number], resolved), abs=2e-6)


@pytest.mark.usefixtures("short")
def test_the_curve_falls_from_r_at_1_to_robust_r_at_1() -> None:
    result = search()
    one, robust = found(result), result.content["robust R@1"]
    radii, recall = zip(*one["curve"], strict=True)
    assert (radii[0], radii[-1]) == (0, 0.03)
    assert list(recall) == sorted(recall, reverse=True)
    assert recall[-1] == pytest.approx(robust["value"])
    assert one["beyond"] == robust["kept"]
    sizes = [size for _, size in one["each"]]
    assert recall[0] == pytest.approx(100 * sum(size is None or size > 0 for size in sizes) / len(sizes))
    median = sorted(np.inf if size is None else size for size in sizes)[(len(sizes) - 1) // 2]
    assert one["quartiles"][1] == (None if median == np.inf else median)
    assert 0 < one["beyond"] < len(sizes) - sizes.count(0.0)


@pytest.mark.usefixtures("short")
def test_the_curve_lies_nowhere_above_the_cascade_by_much() -> None:
    curve = dict(found(search())["curve"])
    for part in (24, 48):
        eps = 0.03 * part / 64
        robust = evaluate(MODEL, digits(), **{**SEARCH, "eps": eps, "minimal_eps": False}).number("robust R@1")
        assert robust is not None
        assert curve[eps] <= robust + 4


@pytest.mark.usefixtures("short")
def test_it_is_the_same_in_any_batch_and_after_a_kill(tmp_path: Path) -> None:
    whole, small = search(folder=tmp_path / "whole"), search(folder=tmp_path / "small", batch=4)
    assert records(tmp_path / "whole") == records(tmp_path / "small")
    assert whole.minimal_eps == small.minimal_eps
    lines = rows(next((tmp_path / "whole").rglob("minimal.jsonl")))
    assert {line["id"]: line["moved"] for line in lines} == {i: size for i, size in found(whole)["each"] if size}
    assert all(line["after"]["R@1"] == 0 for line in lines)
    embed, calls = counted(MODEL)
    search(embed, batch=4)
    with pytest.raises(KeyboardInterrupt):
        search(counted(MODEL, int(0.8 * calls[0]))[0], folder=tmp_path / "killed", batch=4)
    assert 0 < len(rows(next((tmp_path / "killed").rglob("minimal.jsonl")))) < len(lines)
    again = search(counted(MODEL)[0], folder=tmp_path / "killed", batch=4)
    complete = search(counted(MODEL)[0], folder=tmp_path / "complete", batch=4)
    assert lasting(again.content) == lasting(complete.content)
    assert records(tmp_path / "killed") == records(tmp_path / "complete")
    assert again.path is not None
    assert read(again.path).minimal_eps == again.minimal_eps


def test_a_black_box_searches_with_its_own_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cascade, "CASCADE", (replace(CASCADE[-1], steps=30),))
    monkeypatch.setattr(minimal, "HALVINGS", 3)
    sizes = [size for _, size in found(search(gradient="square", eps=0.3))["each"]]
    assert any(size is not None and 0 < size < 0.2 for size in sizes)


@pytest.mark.parametrize("settings", [{"protocol": "cvpr22"}, {"eps": 0}, {"protocol": "strict", "cascade": False}])
def test_without_a_cascade_there_is_no_radius_to_search_below(settings: dict[str, Any]) -> None:
    with pytest.raises(HoldfastError, match="minimal ε"):
        search(**settings)
