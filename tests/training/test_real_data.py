"""Every method takes a step on every real data set that lies here."""

import functools
import math
from pathlib import Path

import pytest

from holdfast import data
from holdfast.defense.recipes import METHODS, parse_recipe
from holdfast.runs.config import resolve_config
from holdfast.runs.folder import Run
from holdfast.training.loop import train

FOLDERS = {"fashion-mnist": "fashion-mnist", "cub": "CUB_200_2011", "cars": "stanford_cars"}
TINY = {
    "model.backbone": "c2f2",
    "model.dim": 8,
    "data.size": 12,
    "batch.pairs": 8,
    "pgd.steps": 3,
    "warmup.epochs": 0,
    "validation.every": 0,
    "steps": 1,
}


@pytest.fixture(autouse=True)
def _read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.runs.data.load_dataset", _load)


@functools.cache
def _load(name: str, root: Path) -> data.Table:
    return data.load_dataset(name, root)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_method_takes_a_step(name: str, tmp_path: Path, real_data: Path) -> None:
    where = {"data.name": name, "data.root": str(real_data / FOLDERS[name])}
    trained = {"model.weights": str(tmp_path / "none" / "model.safetensors")}
    for method in METHODS:
        recipe = parse_recipe({"hm": "hm-s-lga-ics", "hmq": "hmq-e-lga-ics", "fare": "lore"}.get(method, f"{method}-r"))
        settings = {"recipe": recipe.name} | (trained if method == "fare" else {})
        train(resolve_config(TINY, where, settings), tmp_path / method, quiet=True)
        (line,) = Run(tmp_path / method).steps()
        assert math.isfinite(line["loss"]), method
        if method in ("hm", "minmax"):
            assert line["hardness"] >= line["source_hardness"] - 1e-4, method
        if method == "minmax":
            assert line["moved"] == 1
