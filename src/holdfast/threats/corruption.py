"""Retrieval of naturally corrupted images: R@1 and mAP by kind, severity and side, and what they are of clean ones."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NotRequired

import torch
from pydantic import StrictStr
from typing_extensions import TypedDict

from holdfast.core.gallery import Gallery, Queries
from holdfast.data import Pixels
from holdfast.data.corruptions import CORRUPTIONS, SEVERITIES, CorruptedPixels
from holdfast.evaluation.evaluate import Data, finished
from holdfast.evaluation.result import Result
from holdfast.evaluation.runner import attacked_rows
from holdfast.evaluation.settings import AttackSettings, resolve_settings
from holdfast.metrics.retrieval import retrieval_metrics
from holdfast.models.adapters.base import OpenedModel
from holdfast.models.embedding import embed_rows
from holdfast.threats.base import Examined, Model, examine
from holdfast.util.atomic import append_lines, rewrite_lines
from holdfast.util.errors import HoldfastError, pick
from holdfast.util.lock import working_in
from holdfast.util.progress import Progress
from holdfast.util.text import counted
from holdfast.util.validate import Count, Measured, Whole, check, fit, read_lines

THREAT = "corruptions"
"""The protocol of these results, and the key of what they hold."""
CELLS = "cells.jsonl"
MEASURES = ("R@1", "mAP")
SIDES = {
    "query": "corrupted queries, clean gallery",
    "gallery": "clean queries, corrupted gallery",
    "both": "all images corrupted",
}
"""What is corrupted, in words."""


_Measures = TypedDict("_Measures", {"R@1": Measured, "mAP": Measured})


class Cell(TypedDict):
    """What was measured of a kind at a severity on a side, in percent, and its share of the clean value."""

    kind: StrictStr
    severity: Whole
    side: StrictStr
    values: _Measures
    ratios: _Measures


class Corruptions(TypedDict):
    """What a result of ``holdfast corrupt`` holds under :data:`THREAT`."""

    queries: Whole
    gallery: Whole
    clean: _Measures
    cells: list[Cell]
    seed: NotRequired[Whole]


class _Numbers(TypedDict):
    severities: list[Whole]
    max_queries: Count | None
    seed: Whole


def corrupt(
    model: Model,
    data: Data | None = None,
    *,
    kinds: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    sides: Sequence[str] | None = None,
    max_queries: int | None = None,
    seed: int = 0,
    precision: str = "float32",
    folder: str | Path | None = None,
    batch: int = 128,
    device: torch.device | str | None = None,
    quiet: bool = False,
) -> Result:
    """Measure R@1 and mAP of corrupted images (Hendrycks & Dietterich, ICLR 2019) beside those of clean ones.

    Args:
        model: what :func:`.open_model` takes.
        data: a test set, as for :func:`.evaluate`; None: that of the model's own run.
        kinds: some of :data:`.CORRUPTIONS`; by default all.
        severities: some of 1 to 5; by default all.
        sides: some of :data:`SIDES`: which images are corrupted; by default each of the three.
        max_queries: so many queries, drawn by the seed; by default all that have a match. The gallery stays whole.
        seed: of all that is random; an image's corruption follows from it and the image's place in the test set.
        precision: of the network, ``float32`` or ``bfloat16``.
        folder: what is measured is kept in ``folder/corruptions-HASH``, and goes on from there after a kill.
        batch: images read at once.
        device: by default the GPU where there is one.

    Returns a result whose ``content["corruptions"]`` is a :class:`Corruptions`. Raises HoldfastError for what is
    unknown, before any work.
    """
    chosen = _chosen("corruption", kinds, CORRUPTIONS), _chosen("side", sides, SIDES)
    numbers = fit(_Numbers, {"severities": [*(severities or SEVERITIES)], "max_queries": max_queries, "seed": seed})
    for one in numbers["severities"]:
        pick("severity", str(one), {str(known): known for known in SEVERITIES})
    if batch < 1:
        raise HoldfastError(f"batch is at least 1 image, not {batch}")
    cells = [*product(chosen[0], sorted({*numbers["severities"]}), chosen[1])]

    def settings(opened: OpenedModel, pixels: Pixels) -> AttackSettings:
        usual = resolve_settings(pixels.table.family, "benign", seed=seed, precision=precision)
        return replace(usual, max_queries=max_queries)

    with examine(model, data, settings, device=device, quiet=quiet) as it:
        identity = it.identity({THREAT: cells})
        place = None if folder is None else Path(folder) / f"{THREAT}-{identity}"
        if place is not None and (known := finished(place, checks=False)):
            return known
        with working_in(place):
            found = _measured(it, cells, place, batch, quiet)
            return it.result(place, THREAT, identity, found)


def corruptions_of(result: Result) -> Corruptions | None:
    """What a result of ``holdfast corrupt`` measured; None of another result, and HoldfastError of a damaged one."""
    found: Corruptions | None = result.content.get(THREAT)
    if found is not None:
        check(Corruptions, found, f"{result.path}: {THREAT}")
    return found


def mean_of(cells: Sequence[Cell], key: str, measure: str) -> float | None:
    """The mean of one of the ``values`` or ``ratios`` over cells; None where one of them has none."""
    found = [one[key][measure] for one in cells]  # type: ignore[literal-required]
    return fmean(found) if found and None not in found else None


def _chosen(what: str, names: Sequence[str] | None, table: dict[str, Any]) -> list[str]:
    """Those of a table that are named, in its order; all of it by default."""
    for name in names or ():
        pick(what, name, table)
    return [name for name in table if not names or name in names]


def _measured(
    it: Examined, cells: Sequence[tuple[str, int, str]], place: Path | None, batch: int, quiet: bool
) -> dict[str, Any]:
    system, pixels = it.target.system, _cached(it.target.pixels)
    rows = attacked_rows("query", it.target, it.resolved)
    if not len(rows):
        raise HoldfastError("no readable image has another image of its class to be found: nothing to measure")
    queries, gallery = system.queries.take(rows), system.gallery
    clean = _scores(queries, gallery)
    lines: list[dict[str, Any]] = [] if place is None else read_lines(Cell, place / CELLS)
    if place is not None:
        if [(one["kind"], one["severity"], one["side"]) for one in lines] != cells[: len(lines)]:
            raise HoldfastError(f"{place / CELLS} holds other corruptions; remove {place} to start over")
        rewrite_lines(place / CELLS, lines)
    with Progress("corrupting", len(cells), len(lines), quiet=quiet) as progress:
        for (kind, severity), sides in _by_images(cells[len(lines) :]):
            ids = (
                torch.unique(queries.ids) if sides == ["query"] else torch.unique(torch.cat([queries.ids, gallery.ids]))
            )
            images = CorruptedPixels(pixels, kind, severity, it.resolved.seed)
            z = embed_rows(it.wrapped, images, gallery.embeddings.device, rows=ids.cpu(), batch=batch)[0]
            if len(z) != len(ids):
                raise HoldfastError(f"{counted(len(ids) - len(z), 'image')} can no longer be read")
            for side in sides:
                asking, stored = queries, gallery
                if side != "gallery":
                    asking = Queries(z[torch.searchsorted(ids, queries.ids)], queries.labels, queries.ids)
                if side != "query":
                    stored = Gallery(z[torch.searchsorted(ids, gallery.ids)], gallery.labels, gallery.ids)
                values = _scores(asking, stored)
                ratios = {name: value / clean[name] if clean[name] else None for name, value in values.items()}
                line = {"kind": kind, "severity": severity, "side": side, "values": values, "ratios": ratios}
                lines.append(line)
                if place is not None:
                    append_lines(place / CELLS, [line])
                progress.advance(f"{kind}, severity {severity}")
    numbers = {"queries": len(queries.ids), "gallery": len(gallery.ids), "seed": it.resolved.seed}
    return {**numbers, "clean": clean, "cells": lines}


def _by_images(cells: Sequence[tuple[str, int, str]]) -> list[tuple[tuple[str, int], list[str]]]:
    """The sides of each kind and severity, so that its images are embedded once."""
    found: dict[tuple[str, int], list[str]] = {}
    for kind, severity, side in cells:
        found.setdefault((kind, severity), []).append(side)
    return [*found.items()]


def _scores(queries: Queries, gallery: Gallery) -> dict[str, float]:
    found = retrieval_metrics(queries, gallery, ks=(1,))
    return {name: found[name] for name in MEASURES}


def _cached(pixels: Pixels) -> Pixels:
    """The same images, decoded once where there is room for them."""
    try:
        return Pixels(
            pixels.table,
            pixels.size,
            pixels.side,
            channels=pixels.channels,
            resizing=pixels.resizing,
            cache=True,
            max_broken=pixels.max_broken,
        )
    except HoldfastError:
        return pixels
