"""Evaluations by ``worst`` on disk as the gate reads them: a result, the records of two stages, ``benign.jsonl``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.helpers.result_files import write

SETTINGS = {"protocol": "worst", "attacks": [], "seed": 0, "max_queries": None, "cascade": True}


def lines(file: Path, records: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def record(i: int, before: dict[str, float], after: dict[str, float], chosen: Sequence[int] = ()) -> dict[str, Any]:
    return {"id": i, "chosen": [*chosen], "before": before, "after": after, "moved": 0.25}


def evaluation(folder: Path, right: Sequence[bool], robust: Sequence[bool], **changes: Any) -> Path:
    """The result file of queries that are right unattacked, and robust; what breaks does so in the second stage."""
    found = [i for i, one in enumerate(right) if one]
    kept, queries = [i for i in found if robust[i]], len(right)
    lines(folder / "records" / "worst.margin.jsonl", [record(i, {"R@1": 100.0}, {"R@1": 100.0}) for i in found])
    soft = [record(i, {"R@1": 100.0}, {"R@1": 100.0 * robust[i]}) for i in found]
    lines(folder / "records" / "worst.soft.jsonl", soft)
    scores = [{"id": i, "scores": {"R@1": 100.0 * one, "mAP": 80.0 + one}} for i, one in enumerate(right)]
    lines(folder / "benign.jsonl", scores)
    stage = {"tried": len(found), "broke": 0, "passes": 1}
    given: dict[str, Any] = {
        "protocol": "worst",
        "columns": {},
        "ERS": None,
        "settings": SETTINGS,
        "data": {"queries": queries, "attacked": queries, "hash": "01234567"},
        "benign": {"R@1": 100 * len(found) / queries, "mAP": 80 + len(found) / queries, "queries": queries},
        "robust R@1": {
            "value": 100 * len(kept) / queries,
            "low": max(0.0, 100 * len(kept) / queries - 6),
            "high": min(100.0, 100 * len(kept) / queries + 6),
            "kept": len(kept),
            "queries": queries,
            "stages": [{"name": "margin", **stage}, {"name": "soft", **stage, "broke": len(found) - len(kept)}],
        },
    }
    for key, value in changes.items():
        given[key] = {**given[key], **value} if isinstance(value, dict) and isinstance(given.get(key), dict) else value
    return write(folder / "result.json", **given)
