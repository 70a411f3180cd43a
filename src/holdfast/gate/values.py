"""The value that each query adds to a score, from the records beside a result."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from holdfast.data import DATASETS
from holdfast.evaluation.protocols import COLUMNS, PROTOCOLS, Column
from holdfast.evaluation.records import Record, read_benign, read_records
from holdfast.evaluation.result import CERTIFIED, LEAST, ROBUST, SAMPLE, Result
from holdfast.evaluation.robust.cascade import PREFIX
from holdfast.evaluation.robust.certified import NAME as CERTIFICATES
from holdfast.evaluation.scores import Values, weights, withstood
from holdfast.evaluation.words import SCORE_WORDS
from holdfast.gate.rules import UNATTACKED
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

OFF = 1e-3
"""How far the mean of records may be from the score, as a share of its range: they are rounded, and it is not."""
DRAWN = ("CA+", "QA+", "TMA")
"""The scores whose attacks are about images that the seed draws; those of others follow from the model's answers."""
HUNDRED = (0.0, 100.0)


@dataclass(frozen=True)
class Each:
    """A score image by image: ``values`` (n,) whose mean it is, and the ``ids`` of the images, (n,).

    ids: -1 for queries that have no record, since they fail unattacked. chosen: by id the images that the attack was
    about, where the seed draws them. low, high: between which a value lies.
    """

    ids: tuple[int, ...]
    values: Values
    low: float
    high: float
    chosen: tuple[tuple[int, ...], ...] = ()


def values_of(result: Result, score: str) -> dict[str, Each]:
    """What a score is made of: by name the columns whose means add up to it; one, of its own name, or ten of the ERS.

    Raises HoldfastError where the result does not have the score, its records are not there, or do not add up to it.
    """
    if result.path is None:
        raise HoldfastError(f"{result.name}: an evaluation that was kept in memory has no records")
    value = result.number(score) if score not in UNATTACKED else result.content["benign"].get(score)
    if value is None:
        raise HoldfastError(f"{result.path} has no {score}")
    found = _found(result, result.path.parent, score)
    mean = sum(float(each.values.mean()) for each in found.values())
    wide = sum(each.high - each.low for each in found.values())
    if not abs(mean - value) <= OFF * wide:
        raise HoldfastError(
            f"{result.path} says that {score} is {value:.3f}; by the records beside it it is {mean:.3f}"
        )
    return found


def _found(result: Result, folder: Path, score: str) -> dict[str, Each]:
    if score in UNATTACKED:
        return {score: _unattacked(folder, score)}
    if score in (ROBUST, SAMPLE):
        return {score: _worst(result, folder, score)}
    if score == LEAST:
        found = {
            attack: _records(folder, attack, before=("ES:R",) if attack == "es" else (), after=(name,))
            for attack, name in {"es": "ES:R", "ltm": "LTM", "gtm": "GTM"}.items()
        }
        return {score: Each(_ids(found["es"]), withstood(found), *HUNDRED)}
    if score.startswith(CERTIFIED):
        records, radius = _records(folder, CERTIFICATES, after=("radius",)), float(score.removeprefix(CERTIFIED))
        return {
            score: Each(
                _ids(records), np.array([100.0 * (one["after"]["radius"] > radius) for one in records]), *HUNDRED
            )
        }
    columns = [column for column in COLUMNS if score in (column.name, "ERS")]
    return {column.name: _column(result, folder, column, whole=score != "ERS") for column in columns}


def _unattacked(folder: Path, score: str) -> Each:
    lines = read_benign(folder)
    if not lines:
        raise HoldfastError(
            f"{folder} has no benign.jsonl, the scores of each query without attack; move the folder away and evaluate "
            "again, which writes it"
        )
    if any(score not in line["scores"] for line in lines):
        raise HoldfastError(f"{folder / 'benign.jsonl'} has a line without {score}")
    return Each(_ids(lines), np.array([line["scores"][score] for line in lines]), *HUNDRED)


def _worst(result: Result, folder: Path, score: str) -> Each:
    """Robust R@1, or R@1 of the attacked queries unattacked. The records are of those that find their class."""
    robust = result.content[ROBUST] or {}
    stages, queries = robust.get("stages"), robust.get("queries")
    if not stages or queries is None:
        raise HoldfastError(f"{result.path} does not say what the stages of robust R@1 did")
    first, reading = PREFIX + stages[0]["name"], ("R@1",)
    kept = {one["id"]: one["before"]["R@1"] for one in _records(folder, first, stages[0]["tried"], before=reading)}
    for stage in stages if score == ROBUST else ():
        for record in _records(folder, PREFIX + stage["name"], stage["tried"], after=reading):
            kept[record["id"]] = min(kept.get(record["id"], 0.0), record["after"]["R@1"])
    wrong = queries - len(kept)
    if wrong < 0:
        raise HoldfastError(f"{result.path} counts {counted(queries, 'query')}, its records {len(kept)}")
    return Each((*kept, *[-1] * wrong), np.array([*kept.values(), *[0.0] * wrong]), *HUNDRED)


def _column(result: Result, folder: Path, column: Column, *, whole: bool) -> Each:
    """One of the ten scores; where it is not the ``whole`` score, its part of the ERS."""
    records = _records(folder, column.attack, after=(column.name,))
    raw = np.array([record["after"][column.name] for record in records])
    count = len(raw)
    share = count * weights(count, batch_of(result))
    words = SCORE_WORDS[column.name]
    chosen = tuple(tuple(record["chosen"]) for record in records) if column.name in DRAWN else ()
    if whole:
        return Each(_ids(records), share * raw, words.low, words.high, chosen)
    points = np.array([column.to_score(one) for one in raw]) / len(COLUMNS)
    return Each(_ids(records), share * points, 0.0, 100.0 / len(COLUMNS), chosen)


def batch_of(result: Result) -> int | None:
    """The images whose mean a protocol takes first; None: it takes the mean of all at once."""
    rules, dataset = PROTOCOLS.get(result.content["protocol"]), DATASETS.get(result.dataset)
    batches = None if rules is None else rules.batch
    return None if batches is None else batches[dataset.family if dataset else "224"]


def _records(folder: Path, attack: str, count: int | None = None, **readings: Collection[str]) -> list[Record]:
    """The records of an attack, so many where that is known, with these ``readings`` before and after it."""
    records = read_records(folder, attack, **readings)
    if not records and count != 0:
        raise HoldfastError(f"{folder / 'records'} has no records of {attack!r}: a gate needs them beside the result")
    if count is not None and len(records) != count:
        raise HoldfastError(f"{folder / 'records'} has {counted(len(records), 'record')} of {attack!r}, not {count}")
    return records


def _ids(records: list[Record]) -> tuple[int, ...]:
    return tuple(record["id"] for record in records)
