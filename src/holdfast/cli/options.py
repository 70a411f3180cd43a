"""Options that several verbs take, each written once; some in groups that a verb takes as one argument."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from holdfast.data import Pixels
    from holdfast.models.adapters.base import OpenedModel

Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... By default the GPU where there is one.")]
Root = Annotated[Path | None, typer.Option(help="Where the data set lies; for a run: where it lies now.")]
DataName = Annotated[str | None, typer.Option(help="Data set; see 'holdfast list datasets'.")]
Weights = Annotated[Path | None, typer.Option(help="Weights for the model, .safetensors or .pth.")]
Size = Annotated[int | None, typer.Option(help="Side of the images the model takes; by default its own.")]
Resize = Annotated[int | None, typer.Option(help="Side before the centre crop; by default the model's own.")]
Channels = Annotated[int | None, typer.Option(help="1 (grey) or 3 (colour); by default the model's own.")]
Pooling = Annotated[str | None, typer.Option(help="Of hf: models: pooler, cls or mean; by default the model's own.")]
Best = Annotated[bool, typer.Option("--best", help="The weights of a run's best validation, not the last.")]
Precision = Annotated[str, typer.Option(help="float32, or bfloat16: the network in half precision, faster.")]
BatchSize = Annotated[int, typer.Option(help="Images passed at once.")]

MODEL = (
    "A run folder, zoo:NAME, a saved embedder, OWNER/NAME (Hub), hf:ID, st:ID, timm:NAME, open_clip:ARCH:PRETRAINED, "
    "program:FILE.pt2, onnx:FILE, http://host/path, package.module:name or file.py:name."
)


@dataclass
class ModelOptions:
    """A model and the images it is tried on."""

    model: Annotated[str, typer.Argument(help=MODEL)]
    weights: Weights = None
    data: DataName = None
    root: Root = None
    queries: Annotated[Path | None, typer.Option(help="CSV path,label of the queries; goes with --gallery.")] = None
    gallery: Annotated[Path | None, typer.Option(help="CSV path,label of the gallery.")] = None
    size: Size = None
    resize: Resize = None
    channels: Channels = None
    pooling: Pooling = None
    mean: Annotated[str | None, typer.Option(help="That onnx:FILE wants pixels normalised by: 0.485,0.456,0.406.")] = (
        None
    )
    std: Annotated[str | None, typer.Option(help="Likewise: 0.229,0.224,0.225.")] = None
    best: Best = False

    def open(self) -> "tuple[OpenedModel, Pixels]":
        from holdfast.models.open import open_model  # noqa: PLC0415
        from holdfast.models.test_set import load_test_set  # noqa: PLC0415
        from holdfast.util.validate import parse_numbers  # noqa: PLC0415

        shown = {"size": self.size, "resize": self.resize, "channels": self.channels}
        model = open_model(
            self.model,
            weights=self.weights,
            best=self.best,
            pooling=self.pooling,
            mean=parse_numbers(self.mean, "--mean"),
            std=parse_numbers(self.std, "--std"),
            **shown,
        )
        images = load_test_set(model, data=self.data, root=self.root, queries=self.queries, gallery=self.gallery)
        return model, images

    def results(self, model: "OpenedModel") -> Path:
        """The folder for results where none is named: beside a run, of its own test set; else in this folder."""
        from holdfast.evaluation.evaluate import results_folder  # noqa: PLC0415

        own = self.data is None and self.queries is None
        return results_folder(model) if own else Path("evaluations") / model.name


@dataclass
class AttackOptions:
    """How far and how hard to attack; what is left out is the paper's, by the data set."""

    eps: Annotated[str | None, typer.Option(help="Radius: 8/255, 0.03.")] = None
    step: Annotated[str | None, typer.Option(help="Step size, like --eps.")] = None
    steps: Annotated[int | None, typer.Option(help="Steps of the attack.")] = None
    norm: Annotated[str | None, typer.Option(help="linf or l2.")] = None
    gradient: Annotated[
        str | None, typer.Option(help="white-box, nes or square (the last two: black box); by default the model's.")
    ] = None
    query_budget: Annotated[
        int | None, typer.Option(help="Of a black box: model queries that each attack may make per image.")
    ] = None
    precision: Precision = "float32"
    restarts: Annotated[int | None, typer.Option(help="Further descents from random points; the best counts.")] = None
    max_queries: Annotated[int | None, typer.Option(help="Attack so many images only, drawn by --seed.")] = None
    seed: Annotated[int | None, typer.Option(help="Of all that is random in the attacks.")] = None


def grouped(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb whose arguments that are groups of options are spread out on the command line."""
    hints = get_type_hints(verb, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if isinstance(kind, type) and is_dataclass(kind)}
    spread = []
    for parameter in inspect.signature(verb).parameters.values():
        if (group := groups.get(parameter.name)) is None:
            spread.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        kinds = get_type_hints(group, include_extras=True)
        for field in fields(group):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            spread.append(inspect.Parameter(field.name, kind, default=default, annotation=kinds[field.name]))

    @wraps(verb)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        verb(**given)

    run.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return run
