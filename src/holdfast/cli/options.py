"""Options that several verbs take."""

from pathlib import Path
from typing import Annotated

import typer

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... By default the GPU where there is one.")]

RunFolder = Annotated[Path | None, typer.Argument(help="A run folder or zoo:NAME; or give --model.")]
Model = Annotated[
    str | None, typer.Option(help="package.module:name, file.py:name, timm:NAME, zoo:NAME, or a saved embedder.")
]
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
