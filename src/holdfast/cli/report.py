"""``holdfast report``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.options import Root

FORMAT_OF = {"columns": "markdown", "root": "html", "pictures": "html"}
"""The format that an option needs."""
SUFFIXES = {"markdown": (".md", ".markdown", ".txt"), "csv": (".csv",), "json": (".json",), "html": (".html", ".htm")}
"""Of each format's files; a file called otherwise is not replaced."""
SITE = '<meta name="generator" content="holdfast'
"""What the first page of a site has in it."""


def report(  # noqa: PLR0917
    paths: Annotated[list[Path], typer.Argument(help="Result files, or folders with some in them.")],
    style: Annotated[
        str, typer.Option("--format", help="markdown, csv, json, html or site (a board of models).")
    ] = "markdown",
    published: Annotated[
        bool, typer.Option("--published", help="Means over seeds beside the published rows, and the differences.")
    ] = False,
    columns: Annotated[str | None, typer.Option(help="Of the Markdown table, these only: R@1,ERS,passes.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write here; html by default to report.html, site to the folder site.")
    ] = None,
    pictures: Annotated[
        int | None, typer.Option(help="Queries with ranked lists on the html page, 4 by default; 0 reads no model.")
    ] = None,
    root: Root = None,
) -> None:
    """Make one table of many results, one page with charts and ranked lists, or a site that compares models."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.report import BESIDE_PUBLISHED, STYLES, beside_published, find, table  # noqa: PLC0415
    from holdfast.report.tables import select  # noqa: PLC0415
    from holdfast.util.atomic import write_text  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError, pick  # noqa: PLC0415
    from holdfast.util.lock import writing  # noqa: PLC0415

    styles = BESIDE_PUBLISHED if published else STYLES
    write = pick("format", style, {**styles, "site": None})
    given: dict[str, Any] = {"columns": columns, "root": root, "pictures": pictures}
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if FORMAT_OF[name] != style:
            raise HoldfastError(f"--{name} needs --format {FORMAT_OF[name]}")
    if write is None:
        if published:
            raise HoldfastError(
                "--published goes with a table or a page; each model's page of a site has the published rows"
            )
        _site(paths, out or Path("site"))
        return
    if columns is not None:
        chosen["columns"] = [column.strip() for column in columns.split(",")]
    place = out or (Path("report.html") if style == "html" else None)
    if place is None:
        text = write(results := find(paths), **chosen)
        if style == "markdown":
            shown = (beside_published if published else table)(results)
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


def _site(paths: list[Path], folder: Path) -> None:
    """Write a site; its first page comes last, and pages of results that are no longer there are removed."""
    from holdfast.report import find, site_files  # noqa: PLC0415
    from holdfast.util.atomic import write_text  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError  # noqa: PLC0415
    from holdfast.util.lock import working_in  # noqa: PLC0415

    if folder.exists() and not folder.is_dir():
        raise HoldfastError(f"--out is a folder for the site, and {folder} is a file")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SITE).exists():
        raise HoldfastError(f"{folder} holds other files than a site of holdfast: give a new folder")
    files = site_files(find(paths))
    with working_in(folder):
        write_text(folder / SITE, "")
        for name in sorted(files, key="index.html".__eq__):
            write_text(folder / name, files[name])
        for path in [*folder.glob("models/*.html"), *folder.glob("results/*.json")]:
            if path.relative_to(folder).as_posix() not in files:
                path.unlink()
    print(f"written to {folder / 'index.html'}")
