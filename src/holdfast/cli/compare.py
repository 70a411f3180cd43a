"""``holdfast compare``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.options import MODEL, BatchSize, DataName, Device, Precision, Root


def compare(  # noqa: PLR0917
    hardened: Annotated[str, typer.Argument(help=f"The hardened model. {MODEL}")],
    original: Annotated[str, typer.Argument(help="The model it was made from, likewise.")],
    data: DataName = None,
    root: Root = None,
    eps: Annotated[str | None, typer.Option(help="One radius or several: 8/255, or 1,2,4,8/255.")] = None,
    norm: Annotated[str | None, typer.Option(help="linf or l2.")] = None,
    max_queries: Annotated[int | None, typer.Option(help="Attack so many queries only, drawn by --seed.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all that is random in the attacks.")] = None,
    precision: Precision = "float32",
    batch_size: BatchSize = 128,
    out: Annotated[Path | None, typer.Option(help="A JSON file for the comparison.")] = None,
    device: Device = None,
) -> None:
    """Does the gallery of the original still serve a hardened model's queries? R@1 and robust R@1, by old and new."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.evaluation.evaluate import results_folder  # noqa: PLC0415
    from holdfast.evaluation.robust.compare import compare as run  # noqa: PLC0415
    from holdfast.evaluation.settings import parse_radii  # noqa: PLC0415
    from holdfast.models.open import open_model  # noqa: PLC0415
    from holdfast.models.test_set import load_test_set  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError  # noqa: PLC0415

    if out is not None and out.is_dir():
        raise HoldfastError(f"--out {out} is a folder: give a file, such as {out / 'comparison.json'}")
    model = open_model(hardened)
    settings: dict[str, Any] = {"norm": norm, "max_queries": max_queries, "seed": seed, "precision": precision}
    found = run(
        model,
        original,
        load_test_set(model, data=data, root=root),
        eps=None if eps is None else parse_radii(eps),
        folder=results_folder(model) if data is None else Path("evaluations") / model.name,
        batch=batch_size,
        device=device,
        **settings,
    )
    display.hardened(found)
    if out is not None:
        found.write(out)
        print(f"written to {out}")
