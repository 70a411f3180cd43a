"""``holdfast corrupt``."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import BatchSize, Device, ModelOptions, Precision, grouped


@grouped
def corrupt(  # noqa: PLR0917
    target: ModelOptions,
    kind: Annotated[list[str] | None, typer.Option(help="One kind only, such as fog; repeatable.")] = None,
    severity: Annotated[list[int] | None, typer.Option(help="One severity only, 1 to 5; repeatable.")] = None,
    side: Annotated[list[str] | None, typer.Option(help="query, gallery or both; repeatable, by default each.")] = None,
    max_queries: Annotated[int | None, typer.Option(help="So many queries only, drawn by --seed.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    precision: Precision = "float32",
    batch_size: BatchSize = 128,
    out: Annotated[Path | None, typer.Option(help="Folder for results; by default beside the run.")] = None,
    device: Device = None,
) -> None:
    """Measure retrieval of naturally corrupted images: noise, blur, weather, compression; 15 kinds, 5 severities."""
    from holdfast.cli import threats  # noqa: PLC0415
    from holdfast.threats.corruption import corrupt as run  # noqa: PLC0415

    model, images = target.open()
    result = run(
        model,
        images,
        kinds=kind,
        severities=severity,
        sides=side,
        max_queries=max_queries,
        seed=seed,
        precision=precision,
        folder=out or target.results(model),
        batch=batch_size,
        device=device,
    )
    threats.corruptions(result)
