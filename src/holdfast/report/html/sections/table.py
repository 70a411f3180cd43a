"""All numbers, beside the published ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.report.beside import beside_published
from holdfast.report.groups import Group
from holdfast.report.html.entries import Entry
from holdfast.report.tables import Header, Rows, Setting, table
from holdfast.report.widths import foremost


def fill(found: Sequence[Entry], settings: Mapping[Setting, Sequence[Entry]]) -> dict[str, Any]:
    """What ``table.html.j2`` shows: our rows with their published ones, the other published rows, other radii."""
    chosen = [entry for alike in settings.values() for entry in alike]
    others = [entry.group for entry in found if entry not in chosen]
    header, rows = beside_published([result for entry in chosen for result in entry.group.members])
    source, protocol = header.index("source"), header.index("protocol")
    last = max(i for i, row in enumerate(rows) if row[protocol] != "published")
    kept = [i for i in foremost(header) if i != source and any(row[i] for row in rows)]
    kinds = {"published": "published", "": "difference"}
    lines = [{"kind": kinds.get(row[protocol], "ours"), "cells": [row[i] for i in kept]} for row in rows]
    return {
        "several_seeds": any(len(entry.group.members) > 1 for entry in found),
        "header": [header[i] for i in kept],
        "ours": lines[: last + 1],
        "others": lines[last + 1 :],
        "published": list(dict.fromkeys(row[source] for row in rows if row[protocol] == "published")),
        "radii": _radii(others) if others else None,
    }


def _radii(groups: Sequence[Group]) -> tuple[Header, Rows]:
    header, rows = table([result for group in groups for result in group.members])
    order = foremost(header)
    return [header[i] for i in order], [[row[i] for i in order] for row in rows]
