"""The published results, as the papers print them."""

import csv
import re
from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any

from holdfast.evaluation.result import BENIGN, SCORES

PUBLISHED = (*BENIGN, *SCORES, "ERS")
"""The numbers of a row."""
EPS = {"MNIST": 77 / 255, "Fashion-MNIST": 77 / 255}
SETTING = re.compile(r"\s*\((\w+)=([\d.]+)\)$")
SETTING_OF = {"xi": "loss.boost", "lambda": "loss.structure", "u": "loss.ceiling"}
"""What the papers put in parentheses after a defense, as training settings."""


def published(dataset: str) -> list[dict[str, Any]]:
    """The published rows of a data set, named as here or as in the papers, in any letter case; there may be none.

    Each row has ``source``, ``dataset``, ``model`` and ``defense`` as printed; for training ``eta`` (steps of the
    attack; None without one), ``recipe`` (in the paper's notation) and ``training`` (settings that differ from the
    defaults or that the paper names); for evaluation ``eps`` and ``steps``; and :data:`PUBLISHED`. A run that is
    printed in several tables comes once, from the first.
    """
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in printed():
        if row["dataset"].casefold() == dataset.casefold():
            found.setdefault((row["model"], row["recipe"], row["eta"], *row["training"].items()), deepcopy(row))
    return list(found.values())


@cache
def printed() -> tuple[dict[str, Any], ...]:
    """The rows of all data sets, repeats included. Callers must not change them."""
    text = files("holdfast.report").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(_typed(row) for row in csv.DictReader(text.splitlines()))


def _typed(row: dict[str, str]) -> dict[str, Any]:
    """A row with its run. HM to a triplet's own hardness, without an attack, is plain training."""
    eta, recipe = None if row["eta"] == "N/A" else int(row["eta"]), SETTING.sub("", row["defense"])
    if eta is None:
        recipe = re.sub(r"HM\[(.),\1\]", r"N/A[\1]", recipe)
    training = {SETTING_OF[name]: float(value) for name, value in SETTING.findall(row["defense"])}
    run = {"eta": eta, "recipe": recipe, "training": training, "eps": EPS.get(row["dataset"], 8 / 255), "steps": 32}
    return {**row, **run, **{key: float(row[key]) for key in PUBLISHED}}
