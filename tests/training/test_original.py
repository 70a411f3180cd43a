"""Runs that compare with the original: it is in their state, and what makes no sense with it is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.models.embedder import Embedder
from holdfast.runs.config import Config, resolve_config
from holdfast.runs.folder import Run
from holdfast.training.loop import train
from holdfast.util.errors import HoldfastError
from tests.conftest import Refuse
from tests.helpers import tiny
from tests.helpers.runs import assert_same, weights

SMALL = {"data.name": "digits", "model.dim": 16, "batch.pairs": 8, "pgd.steps": 1, "validation.every": 0}


@pytest.fixture
def start(tmp_path: Path) -> Path:
    tiny.embedder().save_pretrained(tmp_path / "start")
    return tmp_path / "start" / "model.safetensors"


def settings(start: Path, **changes: Any) -> Config:
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return resolve_config(SMALL, {"model.weights": str(start), "optim.lr": 1e-3}, changed)


@pytest.mark.parametrize("recipe", ["fare", "lore", "hm-lore"])
def test_a_resumed_run_has_the_original_and_the_multipliers_of_an_uninterrupted_one(
    recipe: str, start: Path, tmp_path: Path
) -> None:
    """To the last bit, cut between two ascents."""
    whole = settings(start, recipe=recipe, steps=12, optim__schedule="constant", optim__warmup_ratio=0, optim__ema=0.5)
    cut = settings(start, recipe=recipe, steps=7, optim__schedule="constant", optim__warmup_ratio=0, optim__ema=0.5)
    train(whole, tmp_path / "whole", quiet=True)
    train(cut, tmp_path / "cut", quiet=True)
    train(whole, tmp_path / "cut", resume=True, quiet=True)
    found = weights(tmp_path / "whole")
    assert_same(found, weights(tmp_path / "cut"))
    first = Embedder.from_pretrained(start.parent).state_dict()
    for name, tensor in first.items():
        assert torch.equal(found[f"defense/original.network.{name}"], tensor)
    assert any(not torch.equal(found[f"model/{name}"], tensor) for name, tensor in first.items())
    if recipe != "fare":
        assert found["defense/constraint.steps"] == 12
        assert found["defense/constraint.network.2.bias"].abs() > 0


def test_a_run_logs_how_near_it_stays(start: Path, tmp_path: Path) -> None:
    train(settings(start, recipe="lore", steps=3, validation__every=1), tmp_path / "run", quiet=True)
    lines, (row,) = Run(tmp_path / "run").steps(), Run(tmp_path / "run").epochs()
    assert lines[0]["distance"] == pytest.approx(0, abs=1e-6)
    assert all(0 < line["distance_shifted"] <= 4 and line["multiplier"] > 0 for line in lines)
    assert float(row["distance"]) == pytest.approx(sum(line["distance"] for line in lines) / 3)


def test_random_weights_are_nothing_to_stay_near(refused: Refuse, tmp_path: Path) -> None:
    said = refused("train", "--recipe", "lore", "--data", "digits", "--out", tmp_path / "run")
    assert "recipe 'lore' stays near the network that training starts from" in said
    assert "c2f2 starts from random weights: give it trained ones (--weights)" in said
    assert not (tmp_path / "run").exists()


def test_a_network_given_as_an_object_is_an_original(tmp_path: Path) -> None:
    backbone = tiny.embedder().backbone
    train(resolve_config(SMALL, {"recipe": "lore", "steps": 1}), tmp_path / "run", backbone=backbone, quiet=True)
    kept = weights(tmp_path / "run")["defense/original.network.backbone.fc2.bias"]
    assert torch.equal(kept, backbone.state_dict()["fc2.bias"])


def test_a_plain_warm_up_would_lead_away(start: Path) -> None:
    with pytest.raises(HoldfastError, match=r"warmup\.epochs 1 would lead away"):
        settings(start, recipe="hm-lore", warmup__epochs=1)


def test_images_without_classes_train_by_lore_alone(refused: Refuse, tmp_path: Path) -> None:
    """Each image once an epoch; what needs classes says so before anything is read."""
    photos = tiny.photos(tmp_path / "photos")
    tiny.embedder(channels=3).save_pretrained(tmp_path / "start")
    usual: dict[str, Any] = {"data.name": "images", "data.root": str(photos), "data.size": 8, "data.resize": None}
    usual |= {"model.backbone": "c2f2", "model.dim": 16, "model.weights": str(tmp_path / "start" / "model.safetensors")}
    usual |= {"batch.pairs": 4, "pgd.steps": 1, "optim.epochs": 2, "recipe": "lore"}
    train(resolve_config(usual), tmp_path / "run", quiet=True)
    lines = Run(tmp_path / "run").steps()
    assert [line["epoch"] for line in lines] == [1, 1, 1, 2, 2, 2]
    assert all("distance" in row and "R@1" not in row for row in Run(tmp_path / "run").epochs())
    assert not (tmp_path / "run" / "best").exists()
    named = ("train", "--data", "images", "--root", tmp_path / "nowhere", "--out", tmp_path / "other")
    said = refused(*named, "--recipe", "hm-lore")
    assert "recipe 'hm-lore' learns from classes, and data set 'images' has none: use recipe fare or lore" in said
    assert "has no classes to validate by" in refused(*named, "--recipe", "lore", "--set", "validation.every=1")
    assert "nothing to evaluate" in refused("evaluate", tmp_path / "run", "--device", "cpu")
