"""``holdfast embed`` and ``holdfast search``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import (
    MODEL,
    BatchSize,
    Channels,
    Device,
    Mean,
    Pooling,
    Precision,
    Resize,
    Size,
    Std,
    Weights,
)
from holdfast.cli.streams import speaks

SHOWN = 20


def embed(  # noqa: PLR0917
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Images, and folders of images; or a CSV: path and, if known, label."),
    ],
    model: Annotated[str, typer.Option(help=MODEL)],
    out: Annotated[Path, typer.Option(help="The index to write, .npz.")] = Path("embeddings.npz"),
    weights: Weights = None,
    size: Size = None,
    resize: Resize = None,
    channels: Channels = None,
    pooling: Pooling = None,
    mean: Mean = None,
    std: Std = None,
    batch_size: BatchSize = 64,
    precision: Precision = "float32",
    device: Device = None,
) -> None:
    """Embed all images below a folder into an index to search. Killed, it goes on where it was."""
    from holdfast.search.lookup import embed_files  # noqa: PLC0415
    from holdfast.util.errors import printable  # noqa: PLC0415
    from holdfast.util.text import counted  # noqa: PLC0415
    from holdfast.util.validate import parse_numbers  # noqa: PLC0415

    shown = {"size": size, "resize": resize, "channels": channels}
    index = embed_files(
        source,
        model,
        out,
        weights=weights,
        pooling=pooling,
        mean=parse_numbers(mean, "--mean"),
        std=parse_numbers(std, "--std"),
        batch=batch_size,
        precision=precision,
        device=device,
        **shown,
    )
    if not speaks():
        return
    for fault in [*index.about.get("remarks", []), *index.about["faults"]]:
        print(f"note: {fault}")
    for line in index.about.get("left_out", []):
        print(f"left out: {line}")
    broken = index.about["broken"]
    if broken:
        print(f"left out, because they cannot be read ({len(broken):,}):")
        for path, reason in broken[:SHOWN]:
            print(f"  {printable(path)}: {printable(reason)}")
        if len(broken) > SHOWN:
            print(f"  and {len(broken) - SHOWN:,} more, which the index names")
    print(f"{counted(len(index), 'image')} in {out}; now: holdfast search --index {out} --query IMAGE")


def search(  # noqa: PLR0917
    index: Annotated[Path, typer.Option(help="What 'holdfast embed' wrote.")],
    query: Annotated[list[Path], typer.Option(help="An image, or a folder of some; repeatable.")],
    more: Annotated[list[Path] | None, typer.Argument(help="More queries.")] = None,
    k: Annotated[int, typer.Option("-k", help="Results for each query.")] = 10,
    style: Annotated[
        str | None, typer.Option("--format", help="table, lines, csv or json; by default a table in a terminal.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A picture of the queries and their results, .png.")] = None,
    backend: Annotated[str, typer.Option(help="torch, or faiss where it is installed; both are exact.")] = "torch",
    model: Annotated[str | None, typer.Option(help="Where the index's model lies now.")] = None,
    weights: Weights = None,
    device: Device = None,
) -> None:
    """Find the images of an index that are nearest to a query."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.data.readers.listing import asked  # noqa: PLC0415
    from holdfast.search.index import Index  # noqa: PLC0415
    from holdfast.search.lookup import STYLES, answer, by_query, model_of  # noqa: PLC0415
    from holdfast.search.montage import save_montage  # noqa: PLC0415
    from holdfast.search.nearest import search_by  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError, printable, unknown  # noqa: PLC0415
    from holdfast.util.text import counted  # noqa: PLC0415

    style = style or ("table" if sys.stdout.isatty() else "lines")
    if style not in (styles := ("table", *STYLES)):
        raise unknown("format", style, styles)
    search_by(backend, k)
    known = Index.load(index)
    queries, absent = asked([*query, *(more or ())])
    found, broken = answer(known, model_of(known, model, weights), queries, k, backend=backend, device=device)
    if style == "table":
        display.answers(by_query(found))
    else:
        print(STYLES[style](found).encode(errors="backslashreplace").decode(), end="")
    if out is not None and found:
        save_montage(found, known.about["root"], out)
    if broken := absent | broken:
        named = "; ".join(f"{printable(path)} ({printable(reason)})" for path, reason in list(broken.items())[:3])
        more_of_them = "; …" if len(broken) > 3 else ""
        raise HoldfastError(
            f"{len(broken):,} of {counted(len(queries) + len(absent), 'query')} cannot be read: {named}{more_of_them}"
        )
