"""The published results, as the papers print them."""

import csv
from functools import cache
from importlib.resources import files
from typing import Any

BENIGN = ("R@1", "R@2", "mAP", "NMI")
SCORES = ("CA+", "CA-", "QA+", "QA-", "TMA", "ES:D", "ES:R", "LTM", "GTM", "GTT")
FIGURES = (*BENIGN, *SCORES, "ERS")
EPS = {"MNIST": 77 / 255, "Fashion-MNIST": 77 / 255}


def published(dataset: str) -> list[dict[str, Any]]:
    """The published rows of a data set, named as here or in the papers (letter case aside); none is an empty list.

    Each has ``source``, ``dataset``, ``model``, ``defense`` in the paper's notation, ``eta`` (steps of the attack in
    training, None without one), ``eps`` and ``steps`` of the evaluation, and 15 numbers: R@1, R@2, mAP, NMI, the ten
    scores and ERS. A row that stands in several tables comes once, with the first as its source.
    """
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in _rows():
        if row["dataset"].casefold() == dataset.casefold():
            found.setdefault(tuple(row[key] for key in ("model", "defense", "eta")), dict(row))
    return list(found.values())


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    text = files("holdfast.report").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(_typed(row) for row in csv.DictReader(text.splitlines()))


def _typed(row: dict[str, str]) -> dict[str, Any]:
    eta = None if row["eta"] == "N/A" else int(row["eta"])
    evaluation = {"eps": EPS.get(row["dataset"], 8 / 255), "steps": 32}
    return {**row, "eta": eta, **evaluation, **{name: float(row[name]) for name in FIGURES}}
