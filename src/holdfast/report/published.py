"""The published results, as the papers print them."""

import csv
import re
from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any

from holdfast.evaluation.result import BENIGN, SCORES

FIGURES = (*BENIGN, *SCORES, "ERS")
EPS = {"MNIST": 77 / 255, "Fashion-MNIST": 77 / 255}
SETTING = re.compile(r"\s*\((\w+)=([\d.]+)\)$")
SETTING_OF = {"xi": "loss.boost", "lambda": "loss.structure", "u": "loss.ceiling"}
"""What the papers put in parentheses after a defense, as settings of training."""


def published(dataset: str) -> list[dict[str, Any]]:
    """The published rows of a data set, named as here or in the papers (letter case aside); none is an empty list.

    Each has ``source``, ``dataset``, ``model``, ``defense`` as printed, ``eta`` (steps of the attack in training, None
    without one), ``recipe`` (in the paper's notation) and ``training`` (settings that are not the defaults, or that the
    paper names) of the run it stands for, ``eps`` and ``steps`` of the evaluation, and 15 numbers: R@1, R@2, mAP, NMI,
    the ten scores and ERS. A run that stands in several tables comes once, as in the first.
    """
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in printed():
        if row["dataset"].casefold() == dataset.casefold():
            found.setdefault((row["model"], row["recipe"], row["eta"], *row["training"].items()), deepcopy(row))
    return list(found.values())


@cache
def printed() -> tuple[dict[str, Any], ...]:
    """The rows of :func:`published` of all data sets, as often as they are printed; not to be changed."""
    text = files("holdfast.report").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(_typed(row) for row in csv.DictReader(text.splitlines()))


def _typed(row: dict[str, str]) -> dict[str, Any]:
    eta = None if row["eta"] == "N/A" else int(row["eta"])
    evaluation = {"eps": EPS.get(row["dataset"], 8 / 255), "steps": 32}
    return {**row, "eta": eta, **_run(row["defense"], eta), **evaluation, **{key: float(row[key]) for key in FIGURES}}


def _run(defense: str, eta: int | None) -> dict[str, Any]:
    """A triplet that is to become as hard as it is, without an attack, is plain training."""
    recipe = SETTING.sub("", defense)
    if eta is None:
        recipe = re.sub(r"HM\[(.),\1\]", r"N/A[\1]", recipe)
    return {"recipe": recipe, "training": {SETTING_OF[name]: float(value) for name, value in SETTING.findall(defense)}}
