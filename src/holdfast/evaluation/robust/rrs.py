"""RRS, the retained robustness score: how far attacks are kept from their goals, where the model is right without them.

The ERS rewards embeddings that do not move because they say nothing. Here a constant embedder scores 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from holdfast.attacks.base import System, own_entries, recall_at_1, visible_distances
from holdfast.evaluation.protocols import COLUMNS, Column
from holdfast.evaluation.records import Record
from holdfast.evaluation.result import RRS
from holdfast.evaluation.scores import Values, bootstrap, interval
from holdfast.evaluation.words import SCORE_WORDS

BLOCK = 256
"""Queries whose distances to the gallery are looked at together."""


class Unattacked(NamedTuple):
    """A query as it is. right: 1 where an image of its class is nearer than all others, else 0. apart: the mean
    distance to gallery images of other classes."""

    right: float
    apart: float


def rrs(found: Mapping[str, Sequence[Record]], sides: Mapping[str, str], system: System, seed: int) -> dict[str, Any]:
    """RRS of a result, 0 to 100, higher is better, with a bootstrapped interval, from the records of the ten scores.

    sides: ``"query"`` or ``"candidate"``, by the names of the attacks in ``found``.

    Of each attacked image and score, ``1 − (after − before) / (goal − before)`` within [0, 1] is how much is left of
    the way to the attacker's goal; 0 where the goal was reached before. It counts only as far as the queries that it
    is about are right unattacked: the perturbed query itself, or those that a perturbed candidate is ranked for.
    """
    everything = ((name, one) for name, records in found.items() for one in records)
    clean = unattacked(system, {i for name, one in everything for i in _about(one, sides[name])})
    kept: dict[str, Values] = {}
    for name, records in found.items():
        about = [[clean[i] for i in _about(one, sides[name])] for one in records]
        for column in (column for column in COLUMNS if column.name in records[0]["after"]):
            kept[column.name] = np.array([retained(column, *each) for each in zip(records, about, strict=True)])
    value = 100 * float(np.mean([values.mean() for values in kept.values()]))
    spread = bootstrap(kept, None, seed)
    return {
        "value": value,
        **interval(100 * np.mean([spread[name] for name in kept], axis=0)),
        "unit": SCORE_WORDS[RRS].unit,
    }


def retained(column: Column, record: Record, queries: Sequence[Unattacked]) -> float:
    """What an attacked image adds to a score's part of the RRS, in [0, 1]."""
    before, after = (record[when][column.name] for when in ("before", "after"))
    goal = queries[0].apart if column.goal is None else column.goal
    left = 0.0 if goal == before else float(np.clip((goal - after) / (goal - before), 0, 1))
    return left * float(np.mean([query.right for query in queries]))


def unattacked(system: System, ids: Iterable[int]) -> dict[int, Unattacked]:
    """What queries are like unattacked, by id."""
    wanted = torch.tensor(sorted(ids), device=system.queries.ids.device)
    rows = torch.isin(system.queries.ids, wanted).nonzero().squeeze(1)
    found = {}
    for block in torch.split(rows, BLOCK):
        queries = system.queries.take(block)
        right = recall_at_1(queries.embeddings, queries, system) == 100
        distances = visible_distances(system.items, queries, own_entries)
        other = queries.labels[:, None] != system.items.labels
        apart = (distances.masked_fill(~other, 0).double().sum(1) / other.sum(1)).nan_to_num(0)
        for each in zip(queries.ids.tolist(), right.tolist(), apart.tolist(), strict=True):
            found[each[0]] = Unattacked(float(each[1]), each[2])
    return found


def _about(record: Record, side: str) -> list[int]:
    """The ids of the queries that an attack on one image is about."""
    return [record["id"]] if side == "query" else record["chosen"]
