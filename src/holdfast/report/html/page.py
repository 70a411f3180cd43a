"""The page: what results say, section by section, and the text made of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from holdfast import __version__
from holdfast.evaluation.result import Result
from holdfast.report.comparison import comparison
from holdfast.report.html import costs, curves, scores
from holdfast.report.html.charts import GREY
from holdfast.report.html.entries import Entry, Setting, by_setting, entries
from holdfast.report.html.origins import repeated
from holdfast.report.html.radii import radii
from holdfast.report.html.runs import Source, sources
from holdfast.report.html.trust import checked, doubtful, tried
from holdfast.report.tables import format_radius, table
from holdfast.util.errors import HoldfastError

SECTIONS = {
    "glance": "At a glance",
    "table": "All numbers",
    "scores": "The ten scores",
    "costs": "Robustness and its price",
    "radii": "By the radius of the attack",
    "training": "Training",
    "rankings": "What is found, and what under attack",
    "checks": "Can the scores be trusted?",
    "repeat": "To repeat it",
}
"""By the name of their template, in order."""


def page(results: Sequence[Result], root: str | Path | None = None, pictures: int = 4) -> str:
    """The results as one HTML page.

    root: where the data set lies now, if elsewhere than in training. pictures: how many queries of each run are shown
    with what they find; none: neither models nor images are read. What cannot be read is said on the page.
    Raises HoldfastError for a negative number of pictures.
    """
    if pictures < 0:
        raise HoldfastError(f"--pictures is how many queries are shown, at least 0, not {pictures}")
    found = entries(results)
    settings = by_setting(found)
    runs = _named(sources([entry.result for entry in found]))
    context = {
        **_overview(results, found),
        "settings": [_setting(str(setting), alike) for setting, alike in settings.items()],
        "table": _table(settings, found),
        "several_seeds": any(len(entry.group.members) > 1 for entry in found),
        "radii": [{"title": title, "entries": models, "figures": figures} for title, models, figures in radii(found)],
        "training": [_training(name, source) for name, source in runs],
        **_rankings(runs, pictures, root),
        "checked": checked(results),
        "tried": tried(results),
        "repeated": repeated(results),
        "grey": GREY,
        "version": __version__,
    }
    shown = [{"id": name, "title": title} for name, title in SECTIONS.items() if _has(name, context)]
    return _environment().get_template("page.html.j2").render(context, sections=shown)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("holdfast.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _has(section: str, context: Mapping[str, Any]) -> bool:
    """Whether there is something to say in a section that is not always there."""
    if section == "rankings":
        return bool(context["albums"] or context["unread"])
    return bool(context[section]) if section in ("radii", "training") else True


def _overview(results: Sequence[Result], found: Sequence[Entry]) -> dict[str, Any]:
    datasets = list(dict.fromkeys(result.dataset for result in results))
    models = {entry.group.name for entry in found}
    verdicts = Counter(result.verdict for result in results)
    return {
        "title": f"How far retrieval on {_listed(datasets)} holds under attack",
        "lead": f"{_count(len(results), 'evaluation')} of {_count(len(models), 'model')}: what they find in images as "
        "they are, what is left of it when an attacker changes these a little, and whether the numbers can be trusted.",
        "verdicts": ", ".join(f"{verdict} ×{count}" for verdict, count in verdicts.items()),
        "doubtful": any(map(doubtful, results)),
    }


def _setting(title: str, alike: Sequence[Entry]) -> dict[str, Any]:
    theirs, read = costs.counterparts(alike), scores.panels(alike)
    return {
        "title": title,
        "entries": alike,
        "unchecked": [entry.name for entry in alike if "unchecked" in entry.group.verdict],
        "glance": scores.glance(alike),
        "scores": read,
        "records": any(row.before is not None for figure in read for row in figure.drawing.rows),
        "costs": costs.tradeoffs(alike),
        "published": f"{format_radius(theirs[0]['eps'], 'linf')}, {theirs[0]['steps']} steps" if theirs else "",
    }


def _table(settings: Mapping[Setting, Sequence[Entry]], found: Sequence[Entry]) -> dict[str, Any]:
    """The comparison: rows of results with theirs, other published rows, where they were published, other radii."""
    chosen = [entry for alike in settings.values() for entry in alike]
    others = [entry.group for entry in found if entry not in chosen]
    header, rows = comparison([result for entry in chosen for result in entry.group.members])
    place, kind = header.index("source"), header.index("protocol")
    last = max(i for i, row in enumerate(rows) if row[kind] != "published")
    kept = [i for i in range(len(header)) if i != place and any(row[i] for row in rows)]
    kinds = {"published": "published", "": "difference"}
    lines = [{"kind": kinds.get(row[kind], "ours"), "cells": [row[i] for i in kept]} for row in rows]
    return {
        "header": [header[i] for i in kept],
        "ours": lines[: last + 1],
        "others": lines[last + 1 :],
        "published": list(dict.fromkeys(row[place] for row in rows if row[kind] == "published")),
        "radii": table([result for group in others for result in group.members]) if others else None,
    }


def _named(found: Sequence[Source]) -> list[tuple[str, Source]]:
    """Each with a name that no other has."""
    taken: Counter[str] = Counter()
    named = []
    for source in found:
        taken[source.name] += 1
        number = taken[source.name]
        named.append((source.name if number == 1 else f"{source.name} #{number}", source))
    return named


def _training(name: str, source: Source) -> dict[str, Any]:
    try:
        figures, cost = curves.panels(source.run), source.run.cost()
    except (HoldfastError, OSError, TypeError) as error:
        return {"name": name, "figures": [], "said": f"What it logged cannot be read: {error}"}
    said = "No steps logged."
    if cost.get("steps"):
        said = "{steps:,.0f} steps, {passes:,.0f} image passes, {seconds:,.0f} seconds in them.".format(**cost)
    return {"name": name, "figures": figures, "said": said}


def _rankings(runs: Sequence[tuple[str, Source]], count: int, root: str | Path | None) -> dict[str, Any]:
    if not count:
        return {"albums": [], "unread": []}
    from holdfast.report.html.pictures import albums  # noqa: PLC0415 (not needed without pictures)

    made, remarks = albums(runs, count, root)
    nowhere = [] if runs else ["No result lies in a run folder: there are no models to show ranked lists of."]
    return {"albums": made, "unread": [*remarks, *nowhere]}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
