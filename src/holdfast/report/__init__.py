"""Results as tables: what evaluations left on disk, beside the published figures. Reads files only."""

from holdfast.report.figures import published
from holdfast.report.files import Result, find
from holdfast.report.tables import compare, csv_text, json_text, markdown, table

__all__ = ["Result", "compare", "csv_text", "find", "json_text", "markdown", "published", "table"]
