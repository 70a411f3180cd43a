"""The command line: verbs only. torch is imported when a verb needs it, so that ``--help`` answers at once."""

import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="holdfast",
    help="Train image-retrieval embeddings that hold fast under attack, and measure how well they do.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

OUT_OF_MEMORY = ("out of memory", "not enough memory", "allocate memory")

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... By default the GPU where there is one.")]


@app.command()
def train(  # noqa: PLR0917
    recipe: Annotated[str | None, typer.Option(help="hm-s-lga-ics or HM[S,g_LGA]&ICS; see 'holdfast recipes'.")] = None,
    data: Annotated[str | None, typer.Option(help="Data set; see 'holdfast datasets'.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set lies.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Network; see 'holdfast backbones'.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Pretrained weights, .safetensors or .pth.")] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as YAML.")] = None,
    changes: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/DATA-RECIPE-SEED.")] = None,
    resume: Annotated[str, typer.Option(help="auto: go on with the run in the folder; never: refuse.")] = "never",
    device: Device = None,
    verify: Annotated[bool, typer.Option("--verify", help="Decode every image before training starts.")] = False,
) -> None:
    """Train an embedder with any defense. Later settings win: the paper's, --config, options, --set."""
    from holdfast.config import read_yaml, resolve  # noqa: PLC0415
    from holdfast.errors import unknown  # noqa: PLC0415
    from holdfast.recipes import parse  # noqa: PLC0415
    from holdfast.train import train as run  # noqa: PLC0415

    if resume not in ("auto", "never"):
        raise unknown("value of --resume", resume, ("auto", "never"))
    options = {
        "recipe": recipe,
        "data.name": data,
        "data.root": root and str(root.absolute()),
        "model.backbone": backbone,
        "model.weights": weights and str(weights),
    }
    given = {key: value for key, value in options.items() if value is not None}
    settings = resolve(read_yaml(config) if config else {}, given, assignments=changes or ())
    name = parse(settings.recipe).name
    folder = out or Path("runs") / f"{settings.data.name}-{name}-{settings.seed}"
    run(settings, folder, resume=resume == "auto", device=device, verify=verify)
    if os.environ.get("RANK", "0") == "0":
        print(f"the run is in {folder}; now: holdfast evaluate {folder}")


RunFolder = Annotated[Path | None, typer.Argument(help="A run folder; or give --model.")]
Model = Annotated[str | None, typer.Option(help="package.module:name, file.py:name, timm:NAME, or a saved embedder.")]
Weights = Annotated[Path | None, typer.Option(help="Weights for --model, .safetensors or .pth.")]
DataName = Annotated[str | None, typer.Option(help="Test set for --model; see 'holdfast datasets'.")]
Root = Annotated[Path | None, typer.Option(help="Where the data set lies; for a run: where it lies now.")]
QueryList = Annotated[Path | None, typer.Option(help="CSV path,label of the queries; goes with --gallery.")]
GalleryList = Annotated[Path | None, typer.Option(help="CSV path,label of the gallery.")]
Size = Annotated[int | None, typer.Option(help="Side of the images --model takes; by default that of the data set.")]
Resize = Annotated[int | None, typer.Option(help="Side before the centre crop, for --model; by default no crop.")]
Channels = Annotated[int | None, typer.Option(help="1 (grey) or 3 (colour), for --model; by default that of the data.")]
Best = Annotated[bool, typer.Option("--best", help="The weights of a run's best validation, not the last.")]
Eps = Annotated[str | None, typer.Option(help="Radius: 8/255, 0.03. By default that of the paper.")]
Step = Annotated[str | None, typer.Option(help="Step size, like --eps.")]
Steps = Annotated[int | None, typer.Option(help="Steps of the attack.")]
Norm = Annotated[str | None, typer.Option(help="linf or l2.")]
GradientName = Annotated[
    str | None, typer.Option("--gradient", help="white-box, nes or square (the last two: black box).")
]
Precision = Annotated[str | None, typer.Option(help="float32, or bfloat16: the network in half precision, faster.")]
Restarts = Annotated[int | None, typer.Option(help="Further descents from random points; the best counts.")]
MaxQueries = Annotated[int | None, typer.Option(help="Attack so many images only, drawn by --seed.")]
Seed = Annotated[int | None, typer.Option(help="Of all that is random in the attacks.")]
Batch = Annotated[int, typer.Option(help="Images attacked at once.")]


@app.command()
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
    from holdfast import display  # noqa: PLC0415
    from holdfast.budget import radii, radius, resolve_budget  # noqa: PLC0415
    from holdfast.report import compare as compared  # noqa: PLC0415
    from holdfast.report import published  # noqa: PLC0415
    from holdfast.results import another, subject  # noqa: PLC0415

    if eps is not None and eps_curve is not None:
        _fail("give --eps or --eps-curve, not both")
    values = [radius(eps)] if eps_curve is None else radii(eps_curve)
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
        _fail(f"--compare: nothing was published for data set {target.pixels.table.name!r}")
    settings = {
        "attacks": tuple(attack) if attack else None,
        "step": radius(step, "step"),
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


@app.command()
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
    from holdfast import display  # noqa: PLC0415
    from holdfast.budget import radius  # noqa: PLC0415
    from holdfast.results import subject  # noqa: PLC0415

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
        "eps": radius(eps),
        "step": radius(step, "step"),
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


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(help="Result files, or folders that hold some.")],
    style: Annotated[str, typer.Option("--format", help="markdown, csv or json.")] = "markdown",
    compare: Annotated[
        str | None,
        typer.Option(metavar="published", help="Means over seeds beside the published rows, and the differences."),
    ] = None,
    columns: Annotated[str | None, typer.Option(help="Of the Markdown table, these only: R@1,ERS,passes.")] = None,
) -> None:
    """One table over many results."""
    from holdfast.errors import pick  # noqa: PLC0415
    from holdfast.report import COMPARED, STYLES, find  # noqa: PLC0415

    styles = STYLES if compare is None else pick("value of --compare", compare, COMPARED)
    write = pick("format", style, styles)
    if columns is not None and style != "markdown":
        _fail("--columns goes with --format markdown; the other formats hold everything")
    chosen = {} if columns is None else {"columns": [column.strip() for column in columns.split(",")]}
    print(write(find(paths), **chosen))


@app.command()
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
    from holdfast import display  # noqa: PLC0415
    from holdfast.dispatch import dispatch, slots_of  # noqa: PLC0415
    from holdfast.sweep import plan  # noqa: PLC0415

    slots = slots_of(device or ())
    runs = plan(files, out, only or ())
    if dry_run:
        from holdfast.estimate import Estimator  # noqa: PLC0415

        name = device[0].partition("+")[0] if device else None
        at_once = 1 if name in (None, "cpu") else len(slots)  # runs on the CPU share the cores that are timed
        display.planned(runs, Estimator(name).seconds(runs), at_once)
        return
    board = dispatch(runs, slots)
    display.swept(board)
    if any(run.evaluations for run in board.done):
        print(f"now: holdfast report {out} --compare published")
    if board.failed:
        raise typer.Exit(1)


@app.command()
def recipes() -> None:
    """The training methods, by both their names."""
    from holdfast import display  # noqa: PLC0415
    from holdfast.recipes import RECIPES, REFERENCES  # noqa: PLC0415

    rows = [[name, recipe.notation, recipe.summary, REFERENCES[recipe.method]] for name, recipe in RECIPES.items()]
    display.table("recipes", ["name", "in the paper", "what it does", "reference"], rows)
    print("Any source R M S D H goes with any destination; a number in [-2, 2] is a destination too: HM[S,-0.15]&ICS.")


@app.command()
def datasets() -> None:
    """The data sets and layouts that can be read."""
    from holdfast import display  # noqa: PLC0415
    from holdfast.data import DATASETS  # noqa: PLC0415

    rows = [[name, f"{dataset.family}-pixel", dataset.summary] for name, dataset in DATASETS.items()]
    display.table("data sets", ["name", "default settings", "layout"], rows)


@app.command()
def backbones() -> None:
    """The networks."""
    from holdfast import display  # noqa: PLC0415
    from holdfast.backbones import BACKBONES  # noqa: PLC0415

    rows = [[name, backbone.summary] for name, backbone in BACKBONES.items()]
    display.table(
        "backbones", ["name", ""], [*rows, ["timm:NAME", "any timm model, where timm is installed (extra: timm)"]]
    )


@app.command()
def doctor() -> None:
    """What this machine has: versions, devices, extras, and whether a training step works."""
    from holdfast import display  # noqa: PLC0415
    from holdfast.doctor import examine  # noqa: PLC0415

    findings = examine()
    display.table(
        "doctor", ["", "", ""], [[finding.what, "ok" if finding.ok else "no", finding.detail] for finding in findings]
    )
    if any(finding.needed and not finding.ok for finding in findings):
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; what the user can mend comes out as one line, with exit status 2."""
    from holdfast.errors import HoldfastError  # noqa: PLC0415

    try:
        app(args=arguments)
    except HoldfastError as error:
        _fail(str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        _fail(f"{reason}: {error.filename}" if error.filename else reason)
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(known in text for known in OUT_OF_MEMORY):
            raise
        reason = str(error).partition("\n")[0]
        _fail(f"out of memory ({reason}); try a smaller --batch (in training: batch.pairs, data.size or model.dim)")


def _fail(message: str) -> None:
    typer.echo(f"holdfast: {message}", err=True)
    raise SystemExit(2)
