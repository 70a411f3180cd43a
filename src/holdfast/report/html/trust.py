"""What speaks for and against each result."""

from collections.abc import Sequence
from typing import Any

from holdfast.evaluation.result import Result
from holdfast.report.html.entries import setting_of
from holdfast.report.html.words import CHECKS, MARKS


def checked(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each result its name, attack, verdict, gauges of collapse, and remarks."""
    return [
        {
            "name": result.name,
            "setting": str(setting_of(result)),
            "verdict": result.verdict,
            "kind": "good" if result.verdict == "ok" else "bad" if doubtful(result) else "",
            "cosine": _gauge(result, "mean_cosine", 4),
            "rank": _gauge(result, "effective_rank", 1),
            "remarks": _listed(result.content["model"].get("remarks")),
        }
        for result in results
    ]


def tried(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each check that was made its name, the words for it, and what it saw of which result."""
    by_check: dict[str, list[dict[str, str]]] = {}
    for result in results:
        for check in _listed(result.content.get("checks")):
            if isinstance(check, dict):
                passed = check.get("passed")
                mark = MARKS[passed] if isinstance(passed, bool) else MARKS[None]
                seen = {
                    "name": f"{result.name}, {setting_of(result).attack}",
                    "mark": mark,
                    "detail": str(check.get("detail", "")),
                }
                by_check.setdefault(str(check.get("name")), []).append(seen)
    return [{"name": name, "words": CHECKS.get(name), "seen": seen} for name, seen in by_check.items()]


def doubtful(result: Result) -> bool:
    """Whether something speaks against the numbers."""
    return result.content["collapsed"] or result.content.get("trusted") is False


def _gauge(result: Result, name: str, digits: int) -> str:
    gauges = result.content.get("gauges")
    value = gauges.get(name) if isinstance(gauges, dict) else None
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
