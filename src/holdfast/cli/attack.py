"""``holdfast attack``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from holdfast.cli.options import AttackedOptions, AttackOptions, BatchSize, Device, SearchOptions, grouped

IMAGES = 32
"""Attacked unless --max-queries says otherwise."""


@grouped
def attack(  # noqa: PLR0917
    target: AttackedOptions,
    how: AttackOptions,
    what: SearchOptions,
    attack: Annotated[
        str | None, typer.Option(help="One of 'holdfast list attacks'; by default es, of a search rank-feedback.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the images and their manifest.")] = Path("adv"),
    batch_size: BatchSize = 128,
    device: Device = None,
) -> None:
    """Write adversarial images as lossless PNGs that still work after rounding to 8 bits, with a manifest."""
    from holdfast.attacks.feedback import FEEDBACK  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError, pick  # noqa: PLC0415

    settings = {**asdict(how), "max_queries": IMAGES if how.max_queries is None else how.max_queries}
    settings |= {"batch": batch_size, "device": device}
    if what.search is not None:
        pick("attack on a search", attack or "rank-feedback", FEEDBACK)
        _attack_search(target, what, attack or "rank-feedback", out, settings)
        return
    if attack in FEEDBACK:
        raise HoldfastError(f"attack {attack!r} goes with --search, which says what answers with ids")
    if given := [name for name, value in {"--item": what.item, "--ids": what.ids}.items() if value is not None]:
        raise HoldfastError(f"{given[0]} goes with --search")
    if not target.model:
        raise HoldfastError("there is nothing to attack: give a MODEL, or --search")
    _attack_model(target, attack or "es", out, settings)


def _attack_model(target: AttackedOptions, attack: str, out: Path, settings: dict[str, Any]) -> None:
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.evaluation.saving import attack as run  # noqa: PLC0415
    from holdfast.util.text import counted  # noqa: PLC0415

    entries = run(*target.open(), attack, out, **settings)

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
    settings = {name: value for name, value in settings.items() if value is not None}
    found = attack_search(
        what.search, images, attack, out, model=model, k=what.k, item=what.item, ids=what.names(), **settings
    )
    display.searched(found, out)
