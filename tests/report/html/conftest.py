"""Runs to make pages of."""

from pathlib import Path
from typing import Any

import pytest

from holdfast.evaluation.evaluate import evaluate
from holdfast.runs.config import resolve_config
from holdfast.training.loop import train

SETTINGS: dict[str, Any] = {"steps": 2, "max_queries": 12, "cascade": False}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain and a hardened run over the digits, each evaluated at two radii."""
    folder = tmp_path_factory.mktemp("runs")
    for recipe in ("none-r", "hm-s-lga-ics"):
        settings = {"recipe": recipe, "model.dim": 16, "batch.pairs": 24, "steps": 6, "pgd.steps": 2}
        train(
            resolve_config({**settings, "validation.every": 1, "validation.attacked": 8}), folder / recipe, quiet=True
        )
        for eps in (0.05, 0.2):
            evaluate(folder / recipe, checks=eps == 0.2, device="cpu", quiet=True, **{**SETTINGS, "eps": eps})
    return folder
