"""``holdfast attack``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.options import AttackOptions, BatchSize, Device, ModelOptions, grouped

IMAGES = 32
"""Attacked unless --max-queries says otherwise."""
HELP = "One of 'holdfast list attacks', or hub, universal, patch: one image, or one perturbation, for all queries."
OF = {
    "poisons": ("hub",),
    "query_class": ("hub",),
    "made_on": ("hub", "universal", "patch"),
    "area": ("patch",),
}
"""Which attacks an option goes with."""


@grouped
def attack(  # noqa: PLR0917
    target: ModelOptions,
    how: AttackOptions,
    attack: Annotated[str, typer.Option(help=HELP)] = "es",
    poisons: Annotated[int | None, typer.Option(help="Of hub: how many gallery images, 1 by default.")] = None,
    query_class: Annotated[str | None, typer.Option(help="Of hub: queries of this class alone.")] = None,
    made_on: Annotated[
        int | None, typer.Option(help="Of hub, universal, patch: queries it is made on; others are for reading.")
    ] = None,
    area: Annotated[float | None, typer.Option(help="Of patch: share of the image, 0.05 by default.")] = None,
    out: Annotated[Path, typer.Option("--out", "--save", help="Folder for the images and their manifest.")] = Path(
        "adv"
    ),
    batch_size: BatchSize = 128,
    device: Device = None,
) -> None:
    """Write adversarial images as lossless PNGs that still work after rounding to 8 bits, with a manifest."""
    from holdfast.attacks import ATTACKS  # noqa: PLC0415
    from holdfast.attacks.shared import Patch, Universal  # noqa: PLC0415
    from holdfast.cli import display, threats  # noqa: PLC0415
    from holdfast.evaluation.saving import attack as run  # noqa: PLC0415
    from holdfast.threats import THREATS  # noqa: PLC0415
    from holdfast.threats.hub import attack_hub  # noqa: PLC0415
    from holdfast.threats.shared import attack_shared  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError, unknown  # noqa: PLC0415
    from holdfast.util.text import counted  # noqa: PLC0415

    options = {"poisons": poisons, "query_class": query_class, "made_on": made_on, "area": area}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if attack.partition(":")[0].lower() not in [*ATTACKS, *THREATS]:
        raise unknown("attack", attack, [*ATTACKS, *THREATS])
    for name in given:
        if attack not in OF[name]:
            raise HoldfastError(f"--{name.replace('_', '-')} goes with --attack {' or '.join(OF[name])}, not {attack}")
    if attack == "hub":
        model, images = target.open()
        threats.hub(attack_hub(model, images, out, device=device, **given, **asdict(how)))
        return
    if attack in ("universal", "patch"):
        model, images = target.open()
        kind = Patch(area=given.pop("area", Patch.area)) if attack == "patch" else Universal()
        given |= {name: value for name, value in asdict(how).items() if value is not None}
        threats.shared(attack_shared(model, images, kind, out, batch=batch_size, device=device, **given), attack)
        return
    settings = {**asdict(how), "max_queries": IMAGES if how.max_queries is None else how.max_queries}
    entries = run(*target.open(), attack, out, batch=batch_size, device=device, **settings)

    def mean(when: str, name: str) -> str:
        return f"{sum(entry[when][name] for entry in entries) / len(entries):.3f}"

    rows = [[name, *(mean(when, name) for when in ("before", "after", "saved"))] for name in entries[0]["saved"]]
    display.table(
        f"{counted(len(entries), 'image')} in {out}", ["mean", "before", "attacked", "as saved, 8 bits"], rows
    )
