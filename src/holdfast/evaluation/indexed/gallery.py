"""A retrieval system as its index has it, and what the index costs: how often it misses the nearest item."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.attacks.base import First, missed, recall_at_1
from holdfast.core.batching import WIDTH
from holdfast.core.gallery import Gallery
from holdfast.evaluation.indexed.factory import GalleryIndex, Search, build_index
from holdfast.evaluation.records import Records
from holdfast.evaluation.result import INDEX
from holdfast.evaluation.robust.cascade import PREFIX, stages_of
from holdfast.evaluation.runner import Target
from holdfast.evaluation.scores import share
from holdfast.evaluation.settings import AttackSettings

ROOM = 2**30
"""Bytes that the distances of the images attacked at once may take."""


def indexed(target: Target, resolved: AttackSettings) -> tuple[Target, GalleryIndex | None]:
    """The target as the index of the settings has it, and that index; the target itself where there is none."""
    if resolved.index is None:
        return target, None
    index = build_index(resolved.index, target.system.gallery.embeddings)
    return replace(target, system=through(index, target.system)), index


def through(index: GalleryIndex, system: System) -> System:
    """The system with what the index compares queries with as its gallery, so that attacks see these distances.

    An index that does not compare with every item is itself asked what comes first.
    """
    gallery = Gallery(index.items, system.gallery.labels, system.gallery.ids, system.gallery.spread)
    first = None if index.exhaustive else first_of(index.search, gallery)
    return replace(system, gallery=gallery, first=first, stored=index.stored).laid_out()


def first_of(search: Search, gallery: Gallery) -> First:
    """A search as :data:`.First` has it."""

    def first(z: Tensor, ids: Tensor) -> Tensor:
        rows = search(z, 2)
        own = (rows >= 0) & (gallery.ids[rows.clamp(min=0)] == ids[:, None])
        return rows[:, 0].where(~own[:, 0], rows[:, 1] if rows.shape[1] > 1 else -1)

    return first


def images_at_once(batch: int, items: int) -> int:
    """``batch``, or as many images as leave the distances to so many items in :data:`ROOM`."""
    return min(batch, max(1, ROOM // (64 * items)))


def index_found(
    index: GalleryIndex | None,
    target: Target,
    resolved: AttackSettings,
    records: Records,
    measured: Mapping[str, float],
) -> dict[str, Any]:
    """``index`` and, with the R@1 that the real search has, ``benign`` of a result, nothing where there is no index.

    measured: ``benign`` by exact distances. ``index`` holds ``R@1`` of all queries by the real search, and the share of
    queries for which that ``missed`` the nearest item: of all ``clean``, and of those that the cascade ``attacked``, by
    their last image."""
    if index is None:
        return {}
    system = replace(target.system, first=first_of(index.search, target.system.gallery))
    recall, misses = [], []
    for rows in torch.split(torch.arange(len(system.queries.ids), device=system.queries.ids.device), WIDTH):
        part = system.queries.take(rows)
        recall.append(recall_at_1(part.embeddings, part, system))
        assert system.first is not None
        misses.append(missed(system.first(part.embeddings, part.ids), part.embeddings, part, system.items))
    found, wrong = (torch.cat(one).double().cpu() for one in (recall, misses))
    matched = ~found.isnan()
    last: dict[int, float] = {}
    for stage in stages_of(resolved) if resolved.cascade else ():
        last |= {one["id"]: one["after"].get("missed", 0.0) for one in records.of(PREFIX + stage.name)}
    attacked = torch.tensor(list(last.values()), dtype=torch.float64)
    about: dict[str, Any] = {
        "word": index.word,
        "exhaustive": index.exhaustive,
        "bytes per item": index.bytes_per_item,
        "bytes per vector": 4 * index.items.shape[1],
        "R@1": share(found[matched].numpy()),
        "missed": {
            "clean": share(wrong[matched].numpy()),
            "attacked": share(attacked.numpy()) if len(attacked) else None,
        },
    }
    real = {} if index.exhaustive else {"R@1": about["R@1"]["value"]}
    return {INDEX: about, "benign": {**measured, **real}}
