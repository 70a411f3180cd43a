"""Hubs in the gallery, and one perturbation or patch for all queries."""

from collections.abc import Sequence
from typing import Any, Literal

from holdfast.evaluation.result import Result
from holdfast.report.tables import format_radius
from holdfast.threats.hub import FLAGGED, Hubs, hubs_of
from holdfast.threats.shared import OneForAll, shared_of
from holdfast.util.text import counted

KINDS = {"universal": "one perturbation for all queries", "patch": "one patch for all queries"}
COLUMNS: tuple[Literal["clean", "untrained", "attacked"], ...] = ("clean", "untrained", "attacked")


def fill(results: Sequence[Result]) -> dict[str, Any]:
    """What ``poisons.html.j2`` shows: a table for each result of ``holdfast attack`` by hub, universal or patch."""
    shown = [_hubs(result, found) for result in results if (found := hubs_of(result))]
    for kind in KINDS:
        shown += [_shared(result, kind, known) for result in results if (known := shared_of(result, kind))]
    return {"results": shown} if shown else {}


def _hubs(result: Result, found: Hubs) -> dict[str, Any]:
    header = ["poisons", *found["natural"], "R@1", "their z", "highest natural z", f"natural z above {FLAGGED:g}"]
    rows = []
    for count, one in enumerate([found["clean"], *found["poisoned"]]):
        z = ", ".join(map(_number, one["z"])) or "–"
        numbers = [*one["hits"].values(), one["recall"]]
        rows.append([f"{count}", *map(_number, numbers), z, _number(one["natural_z"]), f"{one['natural_flagged']}"])
    natural = ", ".join(f"{name} {_number(value)} %" for name, value in found["natural"].items())
    reach = f"ε = {format_radius(result.eps, result.norm)}"
    made = f"Made on {counted(found['made_on'], 'query')}, read on {found['read_on']:,} others, {reach}."
    said = f"{made} The best natural item: {natural}."
    return {"title": f"{result.name} on {result.dataset}: hubs", "said": said, "header": header, "rows": rows}


def _shared(result: Result, kind: str, found: OneForAll) -> dict[str, Any]:
    rows = []
    for name in COLUMNS:
        one = found["recall"][name]
        bounds = f"{_number(one['low'])} to {_number(one['high'])}"
        rows.append([name, _number(one["value"]), bounds, f"{one['kept']} of {one['queries']}"])
    reach = "any pixels" if kind == "patch" else f"ε = {format_radius(result.eps, result.norm)}"
    return {
        "title": f"{result.name} on {result.dataset}: {KINDS[kind]}",
        "said": f"Made on {counted(found['made_on'], 'query')}, read on {found['read_on']:,} others, {reach}.",
        "header": ["", "R@1, %", "95 % interval", "queries"],
        "rows": rows,
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
