"""What there is, in tables: recipes, data sets, backbones."""

import re

import pytest

from holdfast.data import DATASETS
from holdfast.defense.recipes import RECIPES
from holdfast.models.backbones import BACKBONES
from tests.conftest import Call


def test_recipes_are_listed_by_both_names(call: Call) -> None:
    status, out, err = call("list", "recipes")
    assert (status, err) == (0, "")
    for name, recipe in RECIPES.items():
        assert re.search(rf"^ *{re.escape(name)} +{re.escape(recipe.notation)} +\S.*\d{{4}}", out, re.MULTILINE)


def test_data_sets_are_listed(call: Call) -> None:
    status, out, _ = call("list", "datasets")
    assert status == 0
    for name, dataset in DATASETS.items():
        assert re.search(rf"^ *{name} +{dataset.family}-pixel +{re.escape(dataset.summary)} *$", out, re.MULTILINE)


def test_backbones_are_listed(call: Call) -> None:
    status, out, _ = call("list", "backbones")
    assert status == 0
    for name in [*BACKBONES, "timm:NAME"]:
        assert re.search(rf"^ *{name} +\S", out, re.MULTILINE)


def test_a_narrow_screen_cuts_no_name_short(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    _, out, _ = call("list", "recipes")
    assert all(recipe.notation in out for recipe in RECIPES.values())
