"""``holdfast sweep``."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import Set


def sweep(  # noqa: PLR0917
    files: Annotated[list[Path], typer.Argument(help="Sweep files, YAML; those in experiments/ are examples.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs: OUT/FILE/RUN.")] = Path("results"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done, and how long it takes.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option(help="One run of those in the files, by name; repeatable.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set of all runs lies.")] = None,
    changes: Set = None,
    device: Annotated[
        list[str] | None, typer.Option(help="Repeatable, a run on each at a time; cuda:0+cuda:1: a run on both.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time on each device.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Do the runs on a Ray cluster: HOST:PORT, or auto, that of this machine."),
    ] = None,
) -> None:
    """Train and evaluate a matrix of runs; what is done is skipped, and a failure stops no other run."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.runs.config import assigned  # noqa: PLC0415
    from holdfast.sweep.cluster import on_ray  # noqa: PLC0415
    from holdfast.sweep.plan import plan  # noqa: PLC0415
    from holdfast.sweep.pool import carry_out, in_slots  # noqa: PLC0415
    from holdfast.sweep.slots import slots_of  # noqa: PLC0415
    from holdfast.util.text import counted  # noqa: PLC0415

    place = on_ray(ray, out, device or (), jobs) if ray is not None else in_slots(slots_of(device or (), jobs))
    given = {"data.root": str(root.absolute())} if root else {}
    runs = plan(files, out, only or (), given | assigned(changes or ()))
    if dry_run:
        from holdfast.sweep.estimate import Estimator  # noqa: PLC0415

        name = device[0].partition("+")[0] if device else None
        at_once = len(device) if device and name != "cpu" else 1  # runs on one device share what is timed
        display.planned(runs, Estimator(name).seconds(runs), at_once)
        return
    failed = carry_out(runs, place)
    display.swept(runs, failed)
    if failed:
        print(f"not done: {len(failed)} of {counted(len(runs), 'run')}; the same command goes on with them")
        raise typer.Exit(1)
    if any(run.evaluations for run in runs):
        print(f"now: holdfast report {out} --published")
