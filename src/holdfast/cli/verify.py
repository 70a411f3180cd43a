"""``holdfast verify``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import AttackOptions, BatchSize, Device, ModelOptions, grouped
from holdfast.threats import FAR


@grouped
def verify(  # noqa: PLR0917
    target: ModelOptions,
    how: AttackOptions,
    far: Annotated[float, typer.Option(help="False accept rate that the threshold is for, in (0, 1).")] = FAR,
    batch_size: BatchSize = 128,
    out: Annotated[Path | None, typer.Option(help="Folder for results; by default beside the run.")] = None,
    device: Device = None,
) -> None:
    """Attack a model as a verifier of faces, people or products: dodging, impersonation, and how little they take."""
    from holdfast.cli import threats  # noqa: PLC0415
    from holdfast.threats.verification import verify as run  # noqa: PLC0415

    model, images = target.open()
    folder = out or target.results(model)
    result = run(model, images, far=far, folder=folder, batch=batch_size, device=device, **asdict(how))
    threats.verification(result)
