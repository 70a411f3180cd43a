"""``holdfast list``: what there is to choose from."""

import typer

NONE = "–"
"""What is not known."""

listing = typer.Typer(help="What there is to choose from.", no_args_is_help=True)


@listing.command()
def recipes() -> None:
    """The training methods, by both their names."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.defense.recipes import RECIPES, SOURCES  # noqa: PLC0415

    rows = [[name, recipe.notation, recipe.summary, recipe.reference] for name, recipe in RECIPES.items()]
    display.table("recipes", ["name", "in the paper", "what it does", "reference"], rows)
    print(f"Any source {' '.join(SOURCES)} goes with any destination; so does a number in [-2, 2]: HM[S,-0.15]&ICS.")
    print(
        "-lore after any with triplets (&LORE) holds clean embeddings near those of the original network: act-r-lore."
    )


@listing.command()
def datasets() -> None:
    """The data sets and layouts that can be read."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.data import DATASETS  # noqa: PLC0415

    rows = [[name, f"{dataset.family}-pixel", dataset.summary] for name, dataset in DATASETS.items()]
    display.table("data sets", ["name", "default settings", "layout"], rows)


@listing.command()
def backbones() -> None:
    """The networks that can be trained."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.models.backbones import BACKBONES  # noqa: PLC0415

    rows = [[name, backbone.summary] for name, backbone in BACKBONES.items()]
    others = [
        ["timm:NAME", "any timm model, where timm is installed (extra: timm)"],
        ["pkg.mod:build", "a function of your own, of dim, channels and size; also file.py:build"],
    ]
    display.table("backbones", ["name", ""], [*rows, *others])


@listing.command()
def attacks() -> None:
    """The attacks on a model, and those on a search by its answers."""
    from holdfast.attacks import ATTACKS  # noqa: PLC0415
    from holdfast.attacks.feedback import FEEDBACK  # noqa: PLC0415
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.evaluation.words import ATTACK_WORDS  # noqa: PLC0415
    from holdfast.threats import THREATS  # noqa: PLC0415

    rows = [[name, attack.side, ", ".join(attack.readings), ATTACK_WORDS[name].aim] for name, attack in ATTACKS.items()]
    display.table("attacks", ["name", "perturbs", "scores", "what it does"], rows)
    rows = [[name, ", ".join(one.milestones), one.aim] for name, one in FEEDBACK.items()]
    display.table("attacks on a search: attack --search", ["name", "at which search it is", "what it does"], rows)
    display.table("of 'holdfast attack' alone", ["name", "what it does"], [[*one] for one in THREATS.items()])


@listing.command()
def zoo() -> None:
    """The trained embedders that come with a checkout; zoo:NAME stands for one wherever a model is named."""
    from holdfast.cli import display  # noqa: PLC0415
    from holdfast.evaluation.protocols import PROTOCOLS  # noqa: PLC0415
    from holdfast.evaluation.result import ROBUST  # noqa: PLC0415
    from holdfast.export.source import results_and_earlier  # noqa: PLC0415
    from holdfast.models.zoo import find, home, names  # noqa: PLC0415
    from holdfast.report.tables import format_number, setting_of  # noqa: PLC0415
    from holdfast.runs.folder import Run  # noqa: PLC0415

    rows, older = [], False
    for name in names():
        run = Run(find(name))
        config, results = run.config(), results_and_earlier(run, "last")[0]
        figures = {key: results[0].number(key) if results else None for key in ("R@1", ROBUST, "ERS")}
        shown = [NONE if value is None else format_number(key, value) for key, value in figures.items()]
        radius = setting_of(results[0]).radius if results else ""
        verdict = results[0].verdict if results else "not evaluated"
        if results and results[0].content["protocol_version"] < PROTOCOLS[results[0].content["protocol"]].version:
            shown[1:], older = [one if one == NONE else f"{one}*" for one in shown[1:]], True
        size = f"{(run.folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB"
        rows.append([f"zoo:{name}", config.data.name, config.recipe, *shown[:2], radius, shown[2], verdict, size])
    columns = ["name", "data", "recipe", "R@1", "robust R@1", "at ε", "ERS", "verdict", "weights"]
    display.table(f"the zoo in {home()}", columns, rows)
    if older:
        print(
            "* by an earlier version of the protocol, whose attacks were weaker: read it as an upper bound, and measure"
        )
        print("  it anew with: holdfast evaluate NAME")
