"""Verdicts, and the checks they rest on."""

from collections.abc import Sequence
from typing import Any

from holdfast.evaluation.result import Result
from holdfast.evaluation.words import PASSED, check_words
from holdfast.report.html.entries import doubts
from holdfast.report.tables import setting_of


def fill(results: Sequence[Result]) -> dict[str, Any]:
    """What ``checks.html.j2`` shows."""
    verdicts = [
        {
            "name": result.name,
            "setting": str(setting_of(result)),
            "verdict": result.verdict,
            "kind": "good" if result.verdict == "ok" else "bad" if doubts(result.verdict) else "",
            "cosine": _gauge(result, "mean_cosine", 4),
            "rank": _gauge(result, "effective_rank", 1),
            "remarks": remarks if isinstance(remarks := result.content["model"].get("remarks"), list) else [],
        }
        for result in results
    ]
    return {"evaluations": verdicts, "checks": _checks(results)}


def _checks(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For each check that was made its name, the words for it, and what came of it for which result."""
    by_name: dict[str, list[dict[str, str]]] = {}
    for result in results:
        for check in result.content.get("checks", []):
            passed = check.get("passed")
            outcome = {
                "name": f"{result.name}, {setting_of(result).attack}",
                "passed": PASSED[passed if isinstance(passed, bool) else None],
                "detail": str(check.get("detail", "")),
            }
            by_name.setdefault(str(check.get("name")), []).append(outcome)
    return [{"name": name, "words": check_words(name), "outcomes": known} for name, known in by_name.items()]


def _gauge(result: Result, name: str, digits: int) -> str:
    gauges = result.content.get("gauges")
    value = gauges.get(name) if isinstance(gauges, dict) else None
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"
