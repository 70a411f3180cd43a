"""What there is, in tables: recipes, data sets, backbones."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.data import DATASETS
from holdfast.defense.recipes import RECIPES
from holdfast.evaluation.protocols import PROTOCOLS
from holdfast.models.backbones import BACKBONES
from tests.conftest import Call

ROOT = Path(__file__).parents[2]
TABLES = {
    "recipes": {name: re.escape(recipe.notation) + r" +\S.*\d{4}" for name, recipe in RECIPES.items()},
    "datasets": {name: f"{one.family}-pixel +{re.escape(one.summary)} *$" for name, one in DATASETS.items()},
    "backbones": dict.fromkeys([*BACKBONES, "timm:NAME"], r"\S"),
}


@pytest.mark.parametrize("what", TABLES)
def test_all_there_is_is_listed(what: str, call: Call) -> None:
    status, out, err = call("list", what)
    assert (status, err) == (0, "")
    for name, rest in TABLES[what].items():
        assert re.search(rf"^ *{re.escape(name)} +{rest}", out, re.MULTILINE)


def test_a_score_by_weaker_attacks_is_marked(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    _, out, _ = call("list", "zoo")
    rows = [line for line in out.splitlines() if "zoo:" in line]
    version = PROTOCOLS["strict"].version
    for row in rows:
        name = row.split()[0].removeprefix("zoo:")
        (file,) = (ROOT / "zoo" / name / "evaluations").glob("strict-*/result.json")
        assert ("*" in row) == (json.loads(file.read_text())["protocol_version"] < version)
    assert ("whose attacks were weaker" in out) == ("*" in out)
    monkeypatch.setitem(PROTOCOLS, "strict", replace(PROTOCOLS["strict"], version=99))
    _, out, _ = call("list", "zoo")
    rows = [line for line in out.splitlines() if "zoo:" in line]
    assert all(re.search(r" \d+\.\d\* ", row) for row in rows)
    assert "whose attacks were weaker" in out


def test_a_narrow_screen_cuts_no_name_short(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    _, out, _ = call("list", "recipes")
    assert all(recipe.notation in out for recipe in RECIPES.values())
