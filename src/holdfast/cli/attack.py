"""``holdfast attack``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import AttackOptions, BatchSize, Device, ModelOptions, grouped

IMAGES = 32
"""Attacked unless --max-queries says otherwise."""


@grouped
def attack(  # noqa: PLR0917
    target: ModelOptions,
    how: AttackOptions,
    attack: Annotated[str, typer.Option(help="One of 'holdfast list attacks'.")] = "es",
    out: Annotated[Path, typer.Option(help="Folder for the images and their manifest.")] = Path("adv"),
    batch_size: BatchSize = 128,
    device: Device = None,
) -> None:
    """Write adversarial images as lossless PNGs that still work after rounding to 8 bits, with a manifest."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.evaluation.saving import attack as run  # noqa: PLC0415
    from holdfast.util.text import counted  # noqa: PLC0415

    settings = {**asdict(how), "max_queries": IMAGES if how.max_queries is None else how.max_queries}
    entries = run(*target.open(), attack, out, batch=batch_size, device=device, **settings)

    def mean(when: str, name: str) -> str:
        return f"{sum(entry[when][name] for entry in entries) / len(entries):.3f}"

    rows = [[name, *(mean(when, name) for when in ("before", "after", "saved"))] for name in entries[0]["saved"]]
    display.table(
        f"{counted(len(entries), 'image')} in {out}", ["mean", "before", "attacked", "as saved, 8 bits"], rows
    )
