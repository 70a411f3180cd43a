"""Results as one self-contained HTML page."""

from collections.abc import Sequence
from pathlib import Path

from holdfast.evaluation.result import Result

PICTURES = 4
"""Queries shown with their ranked lists, by default."""


def html_text(results: Sequence[Result], root: Path | None = None, pictures: int = PICTURES) -> str:
    """The page, see :func:`.page.page`."""
    from holdfast.report.html.page import page  # noqa: PLC0415 (imports torch)

    return page(results, root, pictures)
