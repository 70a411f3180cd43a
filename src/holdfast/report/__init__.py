"""Results as tables: what evaluations left on disk, beside the published figures. Reads files only."""

from collections.abc import Callable, Mapping

from holdfast.report.comparison import compare, compared_csv, compared_json, compared_markdown, comparison
from holdfast.report.figures import published
from holdfast.report.files import Result, find
from holdfast.report.groups import Group, grouped
from holdfast.report.tables import csv_text, json_text, markdown, markdown_text, table

Style = Callable[..., str]

STYLES: Mapping[str, Style] = {
    "markdown": markdown_text,
    "csv": csv_text,
    "json": json_text,
}
"""From results to text; Markdown takes ``columns`` too."""
COMPARED: Mapping[str, Mapping[str, Style]] = {
    "published": {"markdown": compared_markdown, "csv": compared_csv, "json": compared_json},
}
"""The same beside what they are compared with."""

__all__ = [
    "COMPARED",
    "STYLES",
    "Group",
    "Result",
    "compare",
    "comparison",
    "csv_text",
    "find",
    "grouped",
    "json_text",
    "markdown",
    "published",
    "table",
]
