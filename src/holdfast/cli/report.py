"""``holdfast report``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.options import Root

OF_ONE_FORMAT = {"columns": "markdown", "root": "html", "pictures": "html"}
"""Options, and the format they go with."""
FILES = {"html": Path("report.html")}
"""Formats that are written to a file where --out names none."""


def report(  # noqa: PLR0917
    paths: Annotated[list[Path], typer.Argument(help="Result files, or folders that hold some.")],
    style: Annotated[str, typer.Option("--format", help="markdown, csv, json or html.")] = "markdown",
    published: Annotated[
        bool, typer.Option("--published", help="Means over seeds beside the published rows, and the differences.")
    ] = False,
    columns: Annotated[str | None, typer.Option(help="Of the Markdown table, these only: R@1,ERS,passes.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write here; html by default to report.html.")] = None,
    pictures: Annotated[
        int | None, typer.Option(help="Of the page: queries shown with what they find, 4 unless said; 0: none.")
    ] = None,
    root: Root = None,
) -> None:
    """One table over many results, or one page with figures and pictures."""
    from holdfast.report import COMPARED, STYLES, find  # noqa: PLC0415
    from holdfast.util.atomic import write_text  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError, pick  # noqa: PLC0415

    styles = COMPARED if published else STYLES
    write = pick("format", style, styles)
    given: dict[str, Any] = {"columns": columns, "root": root, "pictures": pictures}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if OF_ONE_FORMAT[name] != style:
            more = "; the other formats hold everything" if name == "columns" else ""
            raise HoldfastError(f"--{name} goes with --format {OF_ONE_FORMAT[name]}{more}")
    if columns is not None:
        chosen["columns"] = [column.strip() for column in columns.split(",")]
    place = out or FILES.get(style)
    if place is None:
        print(write(find(paths), **chosen))
        return
    if place.is_dir():
        raise HoldfastError(f"--out is a file to write, and {place} is a folder; try {place / 'report'}.{style}")
    results = find(paths)
    write_text(place, write(results, **chosen))
    print(f"written to {place}")
