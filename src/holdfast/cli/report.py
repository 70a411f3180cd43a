"""``holdfast report``."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    paths: Annotated[list[Path], typer.Argument(help="Result files, or folders that hold some.")],
    style: Annotated[str, typer.Option("--format", help="markdown, csv or json.")] = "markdown",
    compare: Annotated[
        str | None,
        typer.Option(metavar="published", help="Means over seeds beside the published rows, and the differences."),
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Of the Markdown table, these only: R@1,ERS,passes.")] = None,
) -> None:
    """One table over many results."""
    from holdfast.errors import HoldfastError, pick  # noqa: PLC0415
    from holdfast.report import COMPARED, STYLES, find  # noqa: PLC0415

    styles = STYLES if compare is None else pick("value of --compare", compare, COMPARED)
    write = pick("format", style, styles)
    if columns is not None and style != "markdown":
        raise HoldfastError("--columns goes with --format markdown; the other formats hold everything")
    chosen = {} if columns is None else {"columns": [column.strip() for column in columns.split(",")]}
    print(write(find(paths), **chosen))
