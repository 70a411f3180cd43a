"""``holdfast recompute``."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import BatchSize, Device, ModelOptions, grouped


@grouped
def recompute(
    result: Annotated[Path, typer.Argument(help="The result to be checked: result.json, its records beside it.")],
    target: ModelOptions,
    sample: Annotated[int, typer.Option(help="Of the attacked queries, attack so many again.")] = 32,
    batch_size: BatchSize = 128,
    device: Device = None,
) -> None:
    """Evaluate a sample of a result again from the weights, and compare records: exit 0 if they agree, else 1."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.gate.recompute import recompute as run  # noqa: PLC0415
    from holdfast.report import find  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError  # noqa: PLC0415
    from holdfast.util.text import counted  # noqa: PLC0415

    if sample < 1:
        raise HoldfastError(f"--sample is at least 1, not {sample}")
    (found, *others) = find([result])
    if others:
        raise HoldfastError(
            f"{result} has {counted(1 + len(others), 'result')}; name one of them, such as {found.path}"
        )
    model, images = target.open()
    compared = run(found, model, images, sample, batch=batch_size, device=device)
    agreed = all(one.ok for one in compared)
    rows = [
        ["agrees" if one.ok else "DIFFERS", one.score, f"{one.queries}", f"{one.apart}", f"{one.better}"]
        for one in compared
    ]
    table = f"{found.path}, evaluated again: {'agrees' if agreed else 'DIFFERS'}"
    display.table(table, ["", "score", "queries", "differ", "of these better in the file"], rows)
    raise typer.Exit(0 if agreed else 1)
