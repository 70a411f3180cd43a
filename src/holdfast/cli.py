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

WIDTH_OF_A_FILE = 200
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


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    root: Annotated[Path | None, typer.Option(help="Where the data set lies now, if elsewhere.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The weights of the best validation, not the last.")] = False,
    device: Device = None,
) -> None:
    """Benign metrics and collapse gauges of a trained embedder on its test set."""
    from holdfast.results import evaluate_run  # noqa: PLC0415

    scores = evaluate_run(run, root=root, best=best, device=device)
    _table(f"{run}", ["", ""], [[name, _number(value)] for name, value in scores.items()])


@app.command()
def recipes() -> None:
    """The training methods, by both their names."""
    from holdfast.recipes import RECIPES, REFERENCES  # noqa: PLC0415

    rows = [[name, recipe.notation, recipe.summary, REFERENCES[recipe.method]] for name, recipe in RECIPES.items()]
    _table("recipes", ["name", "in the paper", "what it does", "reference"], rows)
    print("Any source R M S D H goes with any destination; a number in [-2, 2] is a destination too: HM[S,-0.15]&ICS.")


@app.command()
def datasets() -> None:
    """The data sets and layouts that can be read."""
    from holdfast.data import DATASETS  # noqa: PLC0415

    rows = [[name, f"{dataset.family}-pixel", dataset.summary] for name, dataset in DATASETS.items()]
    _table("data sets", ["name", "default settings", "layout"], rows)


@app.command()
def backbones() -> None:
    """The networks."""
    from holdfast.backbones import BACKBONES  # noqa: PLC0415

    rows = [[name, backbone.summary] for name, backbone in BACKBONES.items()]
    _table("backbones", ["name", ""], [*rows, ["timm:NAME", "any timm model, where timm is installed (extra: timm)"]])


@app.command()
def doctor() -> None:
    """What this machine has: versions, devices, extras, and whether a training step works."""
    from holdfast.doctor import examine  # noqa: PLC0415

    findings = examine()
    _table(
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
        _fail(f"out of memory ({str(error).partition(chr(10))[0]}); try a smaller batch.pairs, data.size or model.dim")


def _fail(message: str) -> None:
    typer.echo(f"holdfast: {message}", err=True)
    raise SystemExit(2)


def _table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    table = Table(title=title, title_justify="left", show_header=any(columns), box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_A_FILE)
    console.print(table)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
