"""``holdfast export``."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import Best, Root


def export(  # noqa: PLR0917
    run: Annotated[str, typer.Argument(help="A run folder, an exported folder, or zoo:NAME.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="onnx, torch (.pt2), hub (a folder with a model card), native (for its own library)."
        ),
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="By default exports/RUN, with the ending of the format.")] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Keep it only if its embeddings, also of attacked images, are those of the run."),
    ] = False,
    max_queries: Annotated[int, typer.Option(help="Attacked by --verify.")] = 16,
    dtype: Annotated[
        str, typer.Option(help="Of the weights in a hub folder: float32, or bfloat16 for half the size.")
    ] = "float32",
    benchmark: Annotated[
        str | None, typer.Option(help="Of a hub folder: list its scores on this data set of the Hub, OWNER/NAME.")
    ] = None,
    best: Best = False,
    root: Root = None,
) -> None:
    """Write an embedder for deployment, with mean, std and unit length inside; compare it with the run first."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.export import DifferenceError  # noqa: PLC0415
    from holdfast.export import export as write  # noqa: PLC0415
    from holdfast.util.text import plain  # noqa: PLC0415

    try:
        place, found, notes = write(
            run,
            form,
            out,
            best=best,
            precision=dtype,
            verify=verify,
            queries=max_queries,
            root=root,
            benchmark=benchmark,
        )
    except DifferenceError as error:
        display.compared(error.found)
        typer.echo(f"holdfast: {plain(str(error))}", err=True)
        raise typer.Exit(1) from error
    if verify:
        display.compared(found)
    for note in notes:
        print(f"note: {note}")
    print(f"written to {place}")
