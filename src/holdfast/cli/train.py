"""``holdfast train``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.options import Device, Pooling, Set
from holdfast.cli.streams import speaks


def train(  # noqa: PLR0917
    recipe: Annotated[
        str | None, typer.Option(help="hm-s-lga-ics or HM[S,g_LGA]&ICS; see 'holdfast list recipes'.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Data set; see 'holdfast list datasets'.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set lies.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Network, or file.py:build; see 'holdfast list backbones'.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Pretrained weights, .safetensors or .pth, or imagenet.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Start from this model, as it is: hf:ID, st:ID, open_clip:…, timm:NAME, package.module:build, a run, "
            "zoo:NAME."
        ),
    ] = None,
    pooling: Pooling = None,
    config: Annotated[Path | None, typer.Option(help="Settings as YAML.")] = None,
    changes: Set = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; by default runs/DATA-RECIPE-SEED.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder, by its own settings.")
    ] = False,
    device: Device = None,
    verify: Annotated[bool, typer.Option("--verify", help="Decode every image before training starts.")] = False,
) -> None:
    """Train an embedder with any defense. Later settings win: the paper's, --config, options, --set."""
    from holdfast.data.datasets import DATASETS, check_root  # noqa: PLC0415
    from holdfast.defense.recipes import parse_recipe  # noqa: PLC0415
    from holdfast.runs.config import Config, assigned, flatten, resolve_config  # noqa: PLC0415
    from holdfast.runs.folder import Run  # noqa: PLC0415
    from holdfast.training.loop import train as run  # noqa: PLC0415
    from holdfast.training.start import starting_from  # noqa: PLC0415
    from holdfast.util.errors import HoldfastError, nearest  # noqa: PLC0415
    from holdfast.util.validate import read_yaml  # noqa: PLC0415

    options = {
        "recipe": recipe,
        "data.name": data,
        "data.root": root and str(root.absolute()),
        "model.backbone": backbone,
        "model.weights": weights and str(weights),
    }
    given = {key: value for key, value in options.items() if value is not None}
    if model is not None and backbone:
        raise HoldfastError(f"--model {model} brings its network: leave out --backbone")
    if model is None and pooling is not None:
        raise HoldfastError("--pooling goes with --model hf:…")
    tree = read_yaml(config) if config else {}
    if config and not tree:
        raise HoldfastError(f"{config} has no settings in it")
    begin = {}
    if model is not None:
        given.pop("model.weights", None)
        usual = {} if resume else {"data.name": Config().data.name}
        other = usual | flatten(tree) | given | assigned(changes or ())
        begin = starting_from(model, weights=weights, pooling=pooling, given=other)

    def settled(folder: Path | None) -> Config:
        """The settings given, laid over those of the run to be resumed in a folder."""
        begun = resume and folder is not None and Run(folder).config_file.exists()
        before = flatten(asdict(Run(folder).config())) if folder is not None and begun else {}
        return resolve_config(before, tree, begin, given, assignments=changes or ())

    try:
        settings = settled(out)
    except HoldfastError as error:
        try:
            resolve_config(tree)
        except HoldfastError as own:
            if str(own) == str(error):
                raise HoldfastError(f"{config}: {error}") from None
        raise
    name = parse_recipe(settings.recipe).name
    folder = out or Path("runs") / f"{settings.data.name}-{name}-{settings.seed}"
    settings = settled(folder)
    check_root(settings.data.name, root)
    if resume and not Run(folder).config_file.exists() and not (begin or tree or given or changes):
        raise HoldfastError(f"there is no run in {folder} to resume{nearest(folder)}")
    run(settings, folder, resume=resume, device=device, verify=verify)
    if speaks():
        test = "" if DATASETS[settings.data.name].labelled else " --data … --root …"
        print(f"the run is in {folder}; now: holdfast evaluate {folder}{test}")
