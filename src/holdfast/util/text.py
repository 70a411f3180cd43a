"""Data as text: CSV and JSON; texts made shorter."""

import csv
import io
import json
from collections.abc import Iterable


def to_csv(lines: Iterable[Iterable[object]]) -> str:
    """Lines as CSV; None is an empty cell."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(lines)
    return out.getvalue()


def to_json(value: object) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def shorten(text: str, most: int) -> str:
    """A text of at most ``most`` characters, with … in the middle where some are left out."""
    keep = most - 1
    return text if len(text) <= most else f"{text[: (keep + 1) // 2]}…{text[len(text) - keep // 2 :]}"
