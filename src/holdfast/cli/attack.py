"""``holdfast evaluate`` and ``holdfast attack``."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import (
    Batch,
    Best,
    Channels,
    DataName,
    Device,
    Eps,
    GalleryList,
    GradientName,
    MaxQueries,
    Model,
    Norm,
    Precision,
    QueryList,
    Resize,
    Restarts,
    Root,
    RunFolder,
    Seed,
    Size,
    Step,
    Steps,
    Weights,
)


def evaluate(  # noqa: PLR0917
    run: RunFolder = None,
    protocol: Annotated[str, typer.Option(help="strict, cvpr22 (as published), or benign (no attack).")] = "strict",
    compare: Annotated[bool, typer.Option("--compare", help="Put the result beside the published rows.")] = False,
    attack: Annotated[list[str] | None, typer.Option(help="One attack only; repeatable. qa+:5 has 5 targets.")] = None,
    eps: Eps = None,
    eps_curve: Annotated[str | None, typer.Option(help="Several radii: 0,1,2,4,8/255.")] = None,
    step: Step = None,
    steps: Steps = None,
    norm: Norm = None,
    gradient: GradientName = None,
    precision: Precision = None,
    restarts: Restarts = None,
    transfer: Annotated[str | None, typer.Option(help="The attacks see this model only: a run, or as --model.")] = None,
    max_queries: MaxQueries = None,
    seed: Seed = None,
    batch: Batch = 128,
    no_checks: Annotated[
        bool, typer.Option("--no-checks", help="Do not find out if the scores can be trusted.")
    ] = False,
    model: Model = None,
    weights: Weights = None,
    data: DataName = None,
    root: Root = None,
    queries: QueryList = None,
    gallery: GalleryList = None,
    size: Size = None,
    resize: Resize = None,
    channels: Channels = None,
    best: Best = False,
    out: Annotated[Path | None, typer.Option(help="Folder for results; by default beside the run.")] = None,
    device: Device = None,
) -> None:
    """Attack a retrieval model, score it, and check whether the score can be trusted."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.evaluation.opened import another, subject  # noqa: PLC0415
    from holdfast.evaluation.settings import parse_radii, parse_radius, resolve_budget  # noqa: PLC0415
    from holdfast.report import compare as compared  # noqa: PLC0415
    from holdfast.report import published  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError  # noqa: PLC0415

    if eps is not None and eps_curve is not None:
        raise HoldfastError("give --eps or --eps-curve, not both")
    values = [parse_radius(eps)] if eps_curve is None else parse_radii(eps_curve)
    target = subject(
        run,
        model,
        weights=weights,
        data=data,
        root=root,
        queries=queries,
        gallery=gallery,
        size=size,
        resize=resize,
        channels=channels,
        best=best,
    )
    if compare and not published(target.pixels.table.name):
        raise HoldfastError(f"--compare: nothing was published for data set {target.pixels.table.name!r}")
    settings = {
        "attacks": tuple(attack) if attack else None,
        "step": parse_radius(step, "step"),
        "steps": steps,
        "norm": norm,
        "gradient": gradient,
        "precision": precision,
        "restarts": restarts,
        "max_queries": max_queries,
        "seed": seed,
    }
    for value in values:
        resolve_budget(target.pixels.size, protocol, eps=value, **settings)
    options = {
        **settings,
        "batch": batch,
        "device": device,
        "surrogate": None if transfer is None else another(transfer),
        **({} if out is None else {"folder": out}),
    }
    results = []
    for i, value in enumerate(values):
        checks = not no_checks and i == len(values) - 1
        results.append(target.evaluate(protocol, eps=value, checks=checks, **options))
    display.result(results[-1])
    if len(results) > 1:
        display.curve(results)
    if compare:
        display.comparison(*compared(results[-1]))


def attack(  # noqa: PLR0917
    run: RunFolder = None,
    attack: Annotated[str, typer.Option(help="ca+, ca-, qa+, qa-, tma, es, ltm, gtm, gtt, spqa+, spqa-, oa.")] = "es",
    save: Annotated[Path, typer.Option(help="Folder for the images and their manifest.")] = Path("adv"),
    eps: Eps = None,
    step: Step = None,
    steps: Steps = None,
    norm: Norm = None,
    gradient: GradientName = None,
    precision: Precision = None,
    restarts: Restarts = None,
    max_queries: MaxQueries = 32,
    seed: Seed = None,
    batch: Batch = 128,
    model: Model = None,
    weights: Weights = None,
    data: DataName = None,
    root: Root = None,
    queries: QueryList = None,
    gallery: GalleryList = None,
    size: Size = None,
    resize: Resize = None,
    channels: Channels = None,
    best: Best = False,
    device: Device = None,
) -> None:
    """Write adversarial images as lossless PNGs that still work after rounding to 8 bits, with a manifest."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.evaluation.opened import subject  # noqa: PLC0415
    from holdfast.evaluation.settings import parse_radius  # noqa: PLC0415

    target = subject(
        run,
        model,
        weights=weights,
        data=data,
        root=root,
        queries=queries,
        gallery=gallery,
        size=size,
        resize=resize,
        channels=channels,
        best=best,
    )
    settings = {
        "eps": parse_radius(eps),
        "step": parse_radius(step, "step"),
        "steps": steps,
        "norm": norm,
        "gradient": gradient,
        "precision": precision,
        "restarts": restarts,
        "max_queries": max_queries,
        "seed": seed,
    }
    entries = target.attack(attack, save, batch=batch, device=device, **settings)
    names = list(entries[0]["saved"])
    rows = [
        [
            name,
            *(
                f"{sum(entry[when][name] for entry in entries) / len(entries):.3f}"
                for when in ("before", "after", "saved")
            ),
        ]
        for name in names
    ]
    display.table(f"{len(entries)} images in {save}", ["mean", "before", "attacked", "as saved, 8 bits"], rows)
