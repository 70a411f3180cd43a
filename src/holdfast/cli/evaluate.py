"""``holdfast evaluate``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.options import AttackOptions, BatchSize, Device, ModelOptions, grouped
from holdfast.cli.streams import speaks

if TYPE_CHECKING:
    from holdfast.evaluation.result import Result


@grouped
def evaluate(  # noqa: PLR0917
    target: ModelOptions,
    how: AttackOptions,
    protocol: Annotated[
        str, typer.Option(help="strict, worst (robust R@1 alone), cvpr22 (as published), benign.")
    ] = "strict",
    published: Annotated[bool, typer.Option("--published", help="Put the result beside the published rows.")] = False,
    attack: Annotated[list[str] | None, typer.Option(help="One attack only; repeatable. qa+:5 has 5 targets.")] = None,
    eps_curve: Annotated[str | None, typer.Option(help="Several radii: 0,1,2,4,8/255.")] = None,
    minimal_eps: Annotated[
        bool, typer.Option("--minimal-eps", help="Per query the smallest ε that breaks it, up to --eps; R@1 by ε.")
    ] = False,
    index: Annotated[
        str | None,
        typer.Option(
            help="Search the gallery by a faiss index: SQ8, PQ32, IVF256,PQ32:nprobe=16, Binary; and without."
        ),
    ] = None,
    transfer: Annotated[str | None, typer.Option(help="The attacks see this model only.")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Without robust R@1: the scores of short attacks are upper bounds.")
    ] = False,
    certify: Annotated[bool, typer.Option("--certify", help="Certified R@1 within L2 radii, by smoothing.")] = False,
    sigma: Annotated[float | None, typer.Option(help="Of the noise of --certify; by default 0.25.")] = None,
    draws: Annotated[int | None, typer.Option(help="Noisy copies per query of --certify; by default 1000.")] = None,
    batch_size: BatchSize = 128,
    no_checks: Annotated[
        bool, typer.Option("--no-checks", help="Do not find out if the scores can be trusted.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how long it takes, and how much memory.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for results; by default beside the run.")] = None,
    device: Device = None,
) -> None:
    """Attack a retrieval model, score it, and check whether the score can be trusted."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.evaluation.estimate.estimate import estimate  # noqa: PLC0415
    from holdfast.evaluation.evaluate import evaluate as run  # noqa: PLC0415
    from holdfast.evaluation.indexed.factory import check_index  # noqa: PLC0415
    from holdfast.evaluation.settings import parse_radii, resolve_settings  # noqa: PLC0415
    from holdfast.report import published as published_rows  # noqa: PLC0415
    from holdfast.util import distributed  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError  # noqa: PLC0415

    if how.eps is not None and eps_curve is not None:
        raise HoldfastError("give --eps or --eps-curve, not both")
    if quick and attack:
        raise HoldfastError("give --attack or --quick, not both: robust R@1 is not measured where attacks are named")
    if not certify and (given := [f"--{name}" for name, one in {"sigma": sigma, "draws": draws}.items() if one]):
        raise HoldfastError(f"{given[0]} goes with --certify")
    if certify and eps_curve is not None:
        raise HoldfastError("give --certify or --eps-curve, not both: a certificate has radii of its own")
    settings = {**asdict(how), "attacks": tuple(attack) if attack else None, "cascade": False if quick else None}
    settings |= {"sigma": (0.25 if sigma is None else sigma) if certify else None, "draws": draws}
    if minimal_eps and eps_curve is not None:
        raise HoldfastError("give --minimal-eps or --eps-curve, not both: either shows R@1 by ε")
    settings["minimal_eps"] = minimal_eps
    if index is not None and eps_curve is not None:
        raise HoldfastError("give --index or --eps-curve, not both")
    eps = settings.pop("eps")
    values = [eps] if eps_curve is None else sorted({*parse_radii(eps_curve)})
    model, images = target.open()
    if published and not published_rows(images.table.name):
        raise HoldfastError(f"--published: nothing was published for data set {images.table.name!r}")
    check_index(index)
    for value in values:
        black = model.black_box and transfer is None
        resolve_settings(images.table.family, protocol, black, eps=value, index=index, **settings)
    settings |= {"surrogate": transfer, "batch": batch_size, "device": device}
    todo: list[dict[str, Any]] = [{"eps": value, "checks": False} for value in values[:-1]]
    todo.append({"eps": values[-1], "checks": not no_checks, "index": index})
    if index is not None:  # without it last: what does not go with it is refused first
        todo.append({"eps": values[-1], "checks": False})
    if dry_run:
        found = [estimate(model, images, protocol, **settings, **one) for one in todo]
        if speaks():
            display.estimated(model.name, dict(zip(_names(index, eps_curve and values, how.norm), found, strict=True)))
        return
    settings["folder"] = out or target.results(model)
    with distributed.process_group(distributed.device(device)):
        results = [run(model, images, protocol, **settings, **one) for one in todo]
    if index is not None:
        results.reverse()
    _show(results, index is not None, published)


def _names(index: str | None, curve: Any, norm: str | None) -> list[str]:
    """What tells the estimates of a call apart."""
    from holdfast.report.tables import format_radius  # noqa: PLC0415

    if curve:
        return [f", ε = {format_radius(eps, norm)}" for eps in curve]
    return [""] if index is None else [f", by {index}", ", every vector compared"]


def _show(results: "list[Result]", through_index: bool, published: bool) -> None:
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.report import one_beside_published  # noqa: PLC0415

    if not speaks():
        return
    display.result(results[-1])
    if through_index:
        display.through_index(*results)
    elif len(results) > 1:
        display.curve(results)
    if published:
        display.beside_published(*one_beside_published(results[-1]))
    display.summary(results[-1])
