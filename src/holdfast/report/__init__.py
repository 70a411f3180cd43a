"""Results as tables: what evaluations left on disk, beside the published figures. Reads files only."""

from holdfast.report.figures import published
from holdfast.report.files import Result, find
from holdfast.report.tables import compare, csv_text, json_text, markdown, table

STYLES = {"markdown": lambda *given: markdown(*table(*given)), "csv": csv_text, "json": json_text}
"""From results, and published rows to put beside them, to text."""

__all__ = ["STYLES", "Result", "compare", "csv_text", "find", "json_text", "markdown", "published", "table"]
