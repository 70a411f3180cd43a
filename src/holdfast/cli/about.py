"""What there is: recipes, data sets, backbones, and this machine."""

import typer


def recipes() -> None:
    """The training methods, by both their names."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.defense.recipes import RECIPES, REFERENCES  # noqa: PLC0415

    rows = [[name, recipe.notation, recipe.summary, REFERENCES[recipe.method]] for name, recipe in RECIPES.items()]
    display.table("recipes", ["name", "in the paper", "what it does", "reference"], rows)
    print("Any source R M S D H goes with any destination; a number in [-2, 2] is a destination too: HM[S,-0.15]&ICS.")


def datasets() -> None:
    """The data sets and layouts that can be read."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.data import DATASETS  # noqa: PLC0415

    rows = [[name, f"{dataset.family}-pixel", dataset.summary] for name, dataset in DATASETS.items()]
    display.table("data sets", ["name", "default settings", "layout"], rows)


def backbones() -> None:
    """The networks."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.models.backbones import BACKBONES  # noqa: PLC0415

    rows = [[name, backbone.summary] for name, backbone in BACKBONES.items()]
    others = [
        ["timm:NAME", "any timm model, where timm is installed (extra: timm)"],
        ["pkg.mod:build", "a function of your own, of dim, channels and size; also file.py:build"],
    ]
    display.table("backbones", ["name", ""], [*rows, *others])


def doctor() -> None:
    """What this machine has: versions, devices, extras, and whether a training step works."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.cli.machine import examine  # noqa: PLC0415

    findings = examine()
    display.table(
        "doctor", ["", "", ""], [[finding.what, "ok" if finding.ok else "no", finding.detail] for finding in findings]
    )
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)
