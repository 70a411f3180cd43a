"""``holdfast report``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.options import Root

FORMAT_OF = {"columns": "markdown", "root": "html", "pictures": "html"}
"""The format that an option needs."""
SUFFIXES = {"markdown": (".md", ".markdown", ".txt"), "csv": (".csv",), "json": (".json",), "html": (".html", ".htm")}
"""Of each format's files; a file called otherwise is not replaced."""


def report(  # noqa: PLR0917
    paths: Annotated[list[Path], typer.Argument(help="Result files, or folders with some in them.")],
    style: Annotated[str, typer.Option("--format", help="markdown, csv, json or html.")] = "markdown",
    published: Annotated[
        bool, typer.Option("--published", help="Means over seeds beside the published rows, and the differences.")
    ] = False,
    columns: Annotated[str | None, typer.Option(help="Of the Markdown table, these only: R@1,ERS,passes.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write here; html by default to report.html.")] = None,
    pictures: Annotated[
        int | None, typer.Option(help="Queries with ranked lists on the html page, 4 by default; 0 reads no model.")
    ] = None,
    root: Root = None,
) -> None:
    """Make one table of many results, or one page with charts and ranked lists."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.report import COMPARED, STYLES, comparison, find, table  # noqa: PLC0415
    from holdfast.report.tables import select  # noqa: PLC0415
    from holdfast.util.atomic import write_text  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError, pick  # noqa: PLC0415
    from holdfast.util.lock import writing  # noqa: PLC0415

    styles = COMPARED if published else STYLES
    write = pick("format", style, styles)
    given: dict[str, Any] = {"columns": columns, "root": root, "pictures": pictures}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if FORMAT_OF[name] != style:
            raise HoldfastError(f"--{name} needs --format {FORMAT_OF[name]}")
    if columns is not None:
        chosen["columns"] = [column.strip() for column in columns.split(",")]
    place = out or (Path("report.html") if style == "html" else None)
    if place is None:
        text = write(results := find(paths), **chosen)
        if style == "markdown":
            shown = (comparison if published else table)(results)
            display.listed("results", text, select(shown, chosen.get("columns", ())))
        else:
            print(text)
        return
    if place.is_dir():
        inside = place / f"report{SUFFIXES[style][0]}"
        raise HoldfastError(f"--out must be a file, and {place} is a folder; try {inside}")
    if place.exists() and place.suffix.lower() not in SUFFIXES[style]:
        raise HoldfastError(
            f"{place} is there already, and no file of format {style} by its name ({' or '.join(SUFFIXES[style])})"
        )
    results = find(paths)
    with writing(place):
        write_text(place, write(results, **chosen))
    print(f"written to {place}")
