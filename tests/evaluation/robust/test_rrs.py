"""RRS against a loop over single images, and where it has to be 0 or 100."""

from math import dist
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from holdfast.attacks import ATTACKS, System
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.protocols import COLUMNS
from holdfast.evaluation.records import Record
from holdfast.evaluation.robust.rrs import rrs, unattacked
from tests.helpers.tiny import NINE, QUICK, digits, embedder, same_set

SIDES = {name: ATTACKS[name].side for name in NINE}
GOALS = {"CA+": 0, "CA-": 100, "QA+": 0, "QA-": 100, "TMA": 1, "ES:R": 0, "LTM": 0, "GTM": 0, "GTT": 0}


def system(seed: int, count: int = 12, classes: int = 3) -> System:
    """Embeddings on a grid, so that distances tie."""
    draw = np.random.default_rng(seed)
    z = torch.tensor(draw.integers(0, 3, (count, 2)), dtype=torch.float32)
    return System(*same_set(z, torch.tensor(draw.integers(0, classes, count))))


def records(seed: int, count: int = 12) -> dict[str, list[Record]]:
    draw = np.random.default_rng(seed)

    def reading(name: str) -> float:
        return float(draw.choice([0, 0.5, 1])) if name in {"TMA", "ES:D"} else float(draw.choice([0, 30, 100]))

    found: dict[str, list[Record]] = {}
    for name in NINE:
        columns = [column.name for column in COLUMNS if column.attack == name]
        found[name] = [
            {
                "id": i,
                "chosen": [int(draw.integers(count))],
                "before": {column: 0.0 if column == "ES:D" else reading(column) for column in columns},
                "after": {column: reading(column) for column in columns},
                "moved": 0.0,
            }
            for i in range(count)
        ]
    return found


def naive(found: dict[str, list[Record]], points: list[list[float]], labels: list[int]) -> float:
    """One image at a time, from the definition."""

    def others(i: int, alike: bool) -> list[float]:
        return [dist(points[i], points[j]) for j in range(len(points)) if j != i and (labels[i] == labels[j]) == alike]

    columns = []
    for column in COLUMNS:
        kept = []
        for record in found[column.attack]:
            query = record["chosen"][0] if column.name in {"CA+", "CA-"} else record["id"]
            same, different = others(query, alike=True), others(query, alike=False)
            right = bool(same) and min(same) < min(different)
            goal = sum(different) / len(different) if column.name == "ES:D" else GOALS[column.name]
            before, after = record["before"][column.name], record["after"][column.name]
            way = 1 if goal == before else (after - before) / (goal - before)
            kept.append(right * (1 - min(1, max(0, way))))
        columns.append(100 * sum(kept) / len(kept))
    return sum(columns) / 10


@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_mean_of_what_is_left_where_the_model_is_right(seed: int) -> None:
    made, found = system(seed), records(seed)
    result = rrs(found, SIDES, made, seed=0)
    queries = made.queries
    assert result["value"] == pytest.approx(
        naive(found, queries.embeddings.tolist(), queries.labels.tolist()), abs=1e-4
    )
    assert result["low"] <= result["value"] <= result["high"]


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    made = system(0, count=30)
    whole = unattacked(made, range(30))
    monkeypatch.setattr("holdfast.evaluation.robust.rrs.BLOCK", 7)
    assert unattacked(made, range(30)) == whole


def test_attacks_without_effect_leave_it_at_recall() -> None:
    """With the exception of scores whose goal is reached before: none here."""
    result = evaluate(embedder(), digits(), "strict", **{**QUICK, "eps": 0.0, "max_queries": None})
    share = result.content["benign"]["R@1"]
    assert result.content["columns"]["ES:R"]["value"] == pytest.approx(share)
    assert share - 5 < result.content["RRS"]["value"] <= share + 1


def test_a_constant_embedder_has_none(tmp_path: Any) -> None:
    """Its ERS is far above 0, and its robust R@1 is what chance gives."""

    def constant(images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1) * 0 + 1)

    result = evaluate(constant, digits(), "strict", **QUICK)
    assert result.content["RRS"]["value"] == 0
    assert result.number("ERS") > 20
