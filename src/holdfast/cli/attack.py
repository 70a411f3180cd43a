"""``holdfast attack``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.options import (
    AttackedOptions,
    AttackOptions,
    BatchSize,
    Device,
    SearchOptions,
    ThreatOptions,
    grouped,
)

IMAGES = 32
"""Attacked unless --max-queries says otherwise."""
HELP = (
    "One of 'holdfast list attacks', or hub, universal, patch: one image, or one perturbation, for all queries; "
    "by default es, of a search rank-feedback."
)


@grouped
def attack(  # noqa: PLR0917
    target: AttackedOptions,
    how: AttackOptions,
    what: SearchOptions,
    shared: ThreatOptions,
    attack: Annotated[str | None, typer.Option(help=HELP)] = None,
    out: Annotated[Path, typer.Option("--out", "--save", help="Folder for the images and their manifest.")] = Path(
        "adv"
    ),
    batch_size: BatchSize = 128,
    device: Device = None,
) -> None:
    """Write adversarial images as lossless PNGs that still work after rounding to 8 bits, with a manifest."""
    from holdfast.attacks import ATTACKS  # noqa: PLC0415
    from holdfast.attacks.feedback import FEEDBACK  # noqa: PLC0415
    from holdfast.threats import THREATS  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError, pick, unknown  # noqa: PLC0415

    name, settings = attack or "es", asdict(how) | {"batch": batch_size, "device": device}
    if what.search is not None:
        pick("attack on a search", name := attack or "rank-feedback", FEEDBACK)
        shared.check(name)
        _attack_search(target, what, name, out, settings)
        return
    if attack in FEEDBACK:
        raise HoldfastError(f"attack {attack!r} goes with --search, which says what answers with ids")
    if given := [name for name, value in {"--item": what.item, "--ids": what.ids}.items() if value is not None]:
        raise HoldfastError(f"{given[0]} goes with --search")
    if not target.model:
        raise HoldfastError("there is nothing to attack: give a MODEL, or --search")
    if name.partition(":")[0].lower() not in [*ATTACKS, *THREATS]:
        raise unknown("attack", name, [*ATTACKS, *THREATS])
    shared.check(name)
    if name in THREATS:
        _attack_all(target, shared, name, out, settings)
    else:
        _attack_model(target, name, out, settings)


def _attack_model(target: AttackedOptions, attack: str, out: Path, settings: dict[str, Any]) -> None:
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.evaluation.saving import attack as run  # noqa: PLC0415
    from holdfast.util.text import counted  # noqa: PLC0415

    entries = run(*target.open(), attack, out, **_limited(settings))

    def mean(when: str, name: str) -> str:
        return f"{sum(entry[when][name] for entry in entries) / len(entries):.3f}"

    rows = [[name, *(mean(when, name) for when in ("before", "after", "saved"))] for name in entries[0]["saved"]]
    display.table(
        f"{counted(len(entries), 'image')} in {out}", ["mean", "before", "attacked", "as saved, 8 bits"], rows
    )


def _attack_search(
    target: AttackedOptions, what: SearchOptions, attack: str, out: Path, settings: dict[str, Any]
) -> None:
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.search.feedback.attack import attack_search  # noqa: PLC0415

    assert what.search is not None
    model, images = target.asked()
    settings = {name: value for name, value in _limited(settings).items() if value is not None}
    found = attack_search(
        what.search, images, attack, out, model=model, k=what.k, item=what.item, ids=what.names(), **settings
    )
    display.searched(found, out)


def _attack_all(
    target: AttackedOptions, shared: ThreatOptions, attack: str, out: Path, settings: dict[str, Any]
) -> None:
    """One image, or one perturbation, for all queries."""
    from holdfast.attacks.shared import Patch, Universal  # noqa: PLC0415
    from holdfast.cli import threats  # noqa: PLC0415
    from holdfast.threats.hub import attack_hub  # noqa: PLC0415
    from holdfast.threats.shared import attack_shared  # noqa: PLC0415

    model, images = target.open()
    given = shared.given()
    if attack == "hub":
        del settings["batch"]
        threats.hub(attack_hub(model, images, out, **given, **settings))
        return
    kind = Patch(area=given.pop("area", Patch.area)) if attack == "patch" else Universal()
    settings = {name: value for name, value in settings.items() if value is not None}
    threats.shared(attack_shared(model, images, kind, out, **given, **settings), attack)


def _limited(settings: dict[str, Any]) -> dict[str, Any]:
    """With a number of queries where none is given."""
    return settings | ({"max_queries": IMAGES} if settings["max_queries"] is None else {})
