"""Results beside the published rows, and the differences."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from holdfast.evaluation.result import BENIGN, COST, LEAST, ROBUST, RRS, Result
from holdfast.report.groups import Group, grouped
from holdfast.report.published import PUBLISHED, published
from holdfast.report.tables import (
    DECIMALS,
    SETTING,
    Header,
    Rows,
    Setting,
    format_interval,
    format_number,
    format_radius,
    headings,
    markdown,
    measures_of,
    numbers,
    select,
    setting_of,
    texts,
)
from holdfast.util.errors import HoldfastError
from holdfast.util.text import to_csv, to_json

Row = Mapping[str, Any]

SHARED = ("recipe", "backbone", "weights", "training_steps")
"""What JSON has of the model of a group."""
NARROWED = ("seeds", "data", RRS, ROBUST, LEAST, *COST)
"""Columns left out for a single result beside published rows."""
AS_PUBLISHED = ("cvpr22", "cvpr22, bfloat16")
"""Protocols that measure what was published; half precision moves a score by less than its noise."""
LEGEND = """
seeds: the number of runs that a row averages.
The 95 % interval: `±` half of it where it is symmetric, else from low to high. For several seeds: of their mean on the
same queries (Student's t). For one seed: over its attacked queries, without the spread between seeds; benign metrics
have none. R@1, R@2, mAP and NMI are of all queries, the other scores of the attacked ones.
`*`: the interval of the difference, as rounded, excludes zero; an interval without width never does.
A published number is from a single run and is taken as exact: its own spread is not in the interval.
Scores under attack are subtracted only where they were measured as published: protocol cvpr22, the same ε and steps.
"""


def one_beside_published(result: Result) -> tuple[Header, Rows]:
    """A result beside the published rows of its data set, as in :func:`beside_published`, but narrow.

    Columns that say little about a single result are left out; an interval is on a second line of its cell.
    """
    header, rows = beside_published([result])
    kept = [i for i, column in enumerate(header) if column not in NARROWED]
    return [header[i] for i in kept], [[re.sub(r" (?=±|\([-+\d.]+ to )", "\n", row[i]) for i in kept] for row in rows]


def beside_published(results: Sequence[Result]) -> tuple[Header, Rows]:
    """A table of results beside the published rows of their data sets: one row per group over seeds.

    Each group is followed by the published rows of its recipe, loss settings and backbone, those with its number of
    training steps first. After each of these come the differences, ours minus published, with half their interval and
    ``*`` where it excludes zero; for scores under attack only where protocol, ε and steps are as published. Published
    rows without a result are at the end.
    """
    measures = measures_of(results)
    header = ["name", "seeds", *SETTING, *measures, *COST, "verdict", "source"]
    pairs, _, others = _beside(results)
    rows = []
    for group, counterparts in pairs:
        rows.append([*_setting(group), *texts(group, measures, measures), group.verdict, _source(group)])
        for row in counterparts:
            gaps = _differences(group, row)
            cells = (_gap(name, gaps[name]) if name in gaps else "" for name in (*measures, *COST))
            rows += [_published(row, measures), [_title(group, row), *[""] * 5, *cells, "", ""]]
    return header, [*rows, *(_published(row, measures) for row in others)]


def beside_published_markdown(results: Sequence[Result], columns: Sequence[str] = ()) -> str:
    """The table of :func:`beside_published` in Markdown with a legend; ``columns`` are those beside the name."""
    return markdown(*select(beside_published(results), columns)) + LEGEND


def beside_published_csv(results: Sequence[Result]) -> str:
    """One line per group, unrounded with bounds, then one per published row, as CSV."""
    pairs, used, others = _beside(results)
    measures = measures_of(results)
    columns = headings(measures, measures)
    lines: list[list[object]] = [["name", "seeds", *SETTING, *columns, "verdict", "source"]]
    for group, _ in pairs:
        sources = "; ".join(str(member.path) for member in group.members)
        lines.append([*_setting(group), *numbers(group, measures, measures), group.verdict, sources])
    for row in [*used, *others]:
        lines.append([*_published_setting(row), *(row.get(name) for name in columns), "", row["source"]])
    return to_csv(lines)


def beside_published_json(results: Sequence[Result]) -> str:
    """A list of groups, each with the published rows of its recipe and the differences; then the other published rows.

    Every measure and difference has ``value``, ``low`` and ``high``; bounds are null where there are none.
    """
    pairs, _, others = _beside(results)
    found = [
        {
            **{"name": group.name, "seeds": len(group.members), "protocol": group.first.protocol},
            **{"dataset": group.first.dataset, "settings": group.first.content["settings"]},
            "model": {key: group.first.content["model"].get(key) for key in SHARED},
            "measures": {
                name: _bounds(group, name) for name in measures_of(group.members) if group.number(name) is not None
            },
            **{name: group.number(name) for name in COST},
            **{"verdict": group.verdict, "files": [str(member.path) for member in group.members]},
            "published": [{**row, "ours - published": _differences(group, row)} for row in counterparts],
        }
        for group, counterparts in pairs
    ]
    return to_json([*found, *({"protocol": "published", **row} for row in others)])


def _beside(results: Sequence[Result]) -> tuple[list[tuple[Group, list[Row]]], list[Row], list[Row]]:
    """Each group with the published rows of its recipe; these rows, each once; and the rows without a group."""
    pairs = [(group, _counterparts(group)) for group in grouped(results)]
    used: list[Row] = []
    for _, counterparts in pairs:
        used += [row for row in counterparts if row not in used]
    rows = [row for name in dict.fromkeys(result.dataset for result in results) for row in published(name)]
    return pairs, used, [row for row in rows if row not in used]


def _counterparts(group: Group) -> list[Row]:
    model = group.first.content["model"]
    ours = notation(model.get("recipe")), family(model.get("backbone"))
    rows = [row for row in published(group.first.dataset) if (row["recipe"], family(row["model"])) == ours]
    rows = [row for row in rows if _same_loss(group.first, row)]
    return sorted(rows, key=lambda row: (row["eta"] != model.get("training_steps"), row["eta"] or 0))


def _same_loss(result: Result, row: Row) -> bool:
    """Whether the loss had the settings of the row; those that a result does not give were the defaults."""
    from holdfast.runs.config import resolve_config  # noqa: PLC0415 (imports torch)

    data = {"data.name": row["dataset"].lower()}
    usual, theirs = asdict(resolve_config(data).loss), asdict(resolve_config(data, row["training"]).loss)
    told = result.training.get("settings") or {}
    return all(told.get(f"loss.{name}", usual[name]) == value for name, value in theirs.items())


def notation(recipe: object) -> str | None:
    """A recipe in the paper's notation; None for anything that is no recipe."""
    from holdfast.defense.recipes import parse_recipe  # noqa: PLC0415

    try:
        return parse_recipe(recipe).notation if isinstance(recipe, str) else None
    except HoldfastError:
        return None


def family(backbone: object) -> str:
    """``resnet18`` for ResNet-18, timm:resnet18 and timm:resnet18.a1_in1k."""
    return str(backbone).removeprefix("timm:").partition(".")[0].replace("-", "").casefold()


def _as_published(result: Result, row: Row) -> bool:
    settings = result.content["settings"]
    return (
        result.protocol in AS_PUBLISHED
        and settings.get("norm") in (None, "linf")
        and settings.get("steps") == row["steps"]
        and math.isclose(settings.get("eps") or 0, row["eps"], rel_tol=1e-3)
    )


def _bounds(group: Group, name: str, less: float = 0.0) -> dict[str, float | None]:
    value, (low, high) = group.number(name), group.interval(name) or (None, None)
    found = {"value": value, "low": low, "high": high}
    return {key: None if number is None or math.isinf(number) else number - less for key, number in found.items()}


def _differences(group: Group, row: Row) -> dict[str, dict[str, float | None]]:
    names = PUBLISHED if _as_published(group.first, row) else BENIGN
    return {name: _bounds(group, name, row[name]) for name in names if group.number(name) is not None}


def _gap(name: str, difference: Mapping[str, float | None]) -> str:
    value, low, high = difference.values()
    assert value is not None
    digits = DECIMALS.get(name, 1)
    shown = f"{round(value, digits) + 0.0:+.{digits}f}"
    if low is None or high is None:
        return shown
    excludes_zero = low < high and (round(low, digits) > 0 or round(high, digits) < 0)
    return shown + format_interval(name, value, low, high, "+") + ("*" if excludes_zero else "")


def _title(group: Group, row: Row) -> str:
    """Which differences these are, with the training steps where they are not the same."""
    ours = group.first.content["model"].get("training_steps")
    if ours is None or row["eta"] in (None, ours):
        return "ours - published"
    return f"ours, η={ours} - published, η={row['eta']}"


def _setting(group: Group) -> list[str]:
    return [group.name, f"{len(group.members)}", *setting_of(group.first)]


def _source(group: Group) -> str:
    more = len(group.members) - 1
    return str(group.first.path) + (f" and {more} more" if more else "")


def _published(row: Row, measures: Sequence[str]) -> list[str]:
    cells = (format_number(name, row[name]) if name in row else "" for name in (*measures, *COST))
    return [*_published_setting(row), *cells, "", row["source"]]


def _published_setting(row: Row) -> list[str]:
    trained = "" if row["eta"] is None else f", η={row['eta']}"
    how = Setting("published", row["dataset"], format_radius(row["eps"], "linf"), f"{row['steps']}")
    return [f"{row['defense']}, {row['model']}{trained}", "", *how]
