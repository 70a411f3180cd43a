"""Results of evaluations as tables and as a page, beside the published results.

Tables read result files only; the page also runs the models, for ranked lists.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from holdfast.evaluation.result import Result, find
from holdfast.report.beside import (
    beside_published,
    beside_published_csv,
    beside_published_json,
    beside_published_markdown,
    one_beside_published,
)
from holdfast.report.groups import Group, grouped
from holdfast.report.published import published
from holdfast.report.tables import csv_text, json_text, markdown, markdown_text, table

Style = Callable[..., str]


def html_text(results: Sequence[Result], root: Path | None = None, pictures: int = 4) -> str:
    """Results as one self-contained HTML page, see :func:`.page.page`."""
    from holdfast.report.html.page import page  # noqa: PLC0415 (imports torch)

    return page(results, root, pictures)


def site_files(results: Sequence[Result]) -> dict[str, str]:
    """Results as a site, text by file name, whose first page is ``index.html``; see :func:`.board.site`."""
    from holdfast.report.html.board import site  # noqa: PLC0415 (imports torch)

    return site(results)


STYLES: Mapping[str, Style] = {
    "markdown": markdown_text,
    "csv": csv_text,
    "json": json_text,
    "html": html_text,
}
"""From results to text; Markdown takes ``columns`` too, HTML ``root`` and ``pictures``."""
BESIDE_PUBLISHED: Mapping[str, Style] = {
    "markdown": beside_published_markdown,
    "csv": beside_published_csv,
    "json": beside_published_json,
    "html": html_text,
}
"""The same beside the published rows, which the page always has."""

__all__ = [
    "BESIDE_PUBLISHED",
    "STYLES",
    "Group",
    "Result",
    "beside_published",
    "csv_text",
    "find",
    "grouped",
    "html_text",
    "json_text",
    "markdown",
    "one_beside_published",
    "published",
    "site_files",
    "table",
]
