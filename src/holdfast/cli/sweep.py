"""``holdfast sweep``."""

from pathlib import Path
from typing import Annotated

import typer


def sweep(
    files: Annotated[list[Path], typer.Argument(help="Sweep files, YAML; those in experiments/ are examples.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs: OUT/FILE/RUN.")] = Path("results"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and how long it takes.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help="One run of those in the files, by name; repeatable.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Repeatable, one run on each at a time; cuda:0+cuda:1: a run on both.")
    ] = None,
) -> None:
    """Train and evaluate a matrix of runs; what is done is skipped, and a failure stops no other run."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.sweep.dispatch import dispatch, slots_of  # noqa: PLC0415
    from holdfast.sweep.plan import plan  # noqa: PLC0415

    slots = slots_of(device or ())
    runs = plan(files, out, only or ())
    if dry_run:
        from holdfast.sweep.estimate import Estimator  # noqa: PLC0415

        name = device[0].partition("+")[0] if device else None
        at_once = 1 if name in (None, "cpu") else len(slots)  # runs on the CPU share the cores that are timed
        display.planned(runs, Estimator(name).seconds(runs), at_once)
        return
    board = dispatch(runs, slots)
    display.swept(board)
    if any(run.evaluations for run in board.done):
        print(f"now: holdfast report {out} --published")
    if board.failed:
        raise typer.Exit(1)
