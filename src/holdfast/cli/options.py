"""Options that several verbs take, each written once; some in groups that a verb takes as one argument."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from torch import Tensor

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
Mean = Annotated[str | None, typer.Option(help="That onnx:FILE wants pixels normalised by: 0.485,0.456,0.406.")]
Std = Annotated[str | None, typer.Option(help="Likewise: 0.229,0.224,0.225.")]
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
    mean: Mean = None
    std: Std = None
    best: Best = False

    def open(self) -> "tuple[OpenedModel, Pixels]":
        model = self.opened()
        return model, self.images(model)

    def opened(self) -> "OpenedModel":
        """The model."""
        from holdfast.models.open import open_model  # noqa: PLC0415
        from holdfast.util.validate import parse_numbers  # noqa: PLC0415

        return open_model(
            self.model,
            weights=self.weights,
            best=self.best,
            pooling=self.pooling,
            mean=parse_numbers(self.mean, "--mean"),
            std=parse_numbers(self.std, "--std"),
            **self.shown,
        )

    def images(self, model: "OpenedModel") -> "Pixels":
        """Its test set."""
        from holdfast.models.test_set import load_test_set  # noqa: PLC0415

        return load_test_set(model, data=self.data, root=self.root, queries=self.queries, gallery=self.gallery)

    def results(self, model: "OpenedModel") -> Path:
        """The folder for results where none is named: beside a run, of its own test set; else in this folder."""
        from holdfast.evaluation.evaluate import results_folder  # noqa: PLC0415

        own = self.data is None and self.queries is None
        return results_folder(model) if own else Path("evaluations") / model.name

    @property
    def shown(self) -> dict[str, Any]:
        """How a model is shown images, where that is given."""
        return {"size": self.size, "resize": self.resize, "channels": self.channels}


@dataclass
class AttackedOptions(ModelOptions):
    """The same where what is attacked may also be a search."""

    model: Annotated[str, typer.Argument(help=f"{MODEL} None for --search http://…")] = ""

    def asked(self) -> "tuple[OpenedModel | None, Pixels]":
        """The model of a search with vectors, and the images to ask about, of which --queries alone may tell."""
        from holdfast.data.readers.listing import listed  # noqa: PLC0415
        from holdfast.models.open import open_model  # noqa: PLC0415
        from holdfast.models.preprocessing import Preprocessing  # noqa: PLC0415

        model = self.opened() if self.model else None
        said = model or open_model(_unseen, **self.shown)
        if self.queries is None or self.gallery is not None or self.data is not None:
            return model, self.images(said)
        return model, (said.preprocessing or Preprocessing()).pixels(listed(self.queries)[0])


def _unseen(images: "Tensor") -> "Tensor":
    """What stands for the model of a search that has its own."""
    raise NotImplementedError


@dataclass
class SearchOptions:
    """A search that answers with ids alone, and what is wanted of it."""

    search: Annotated[
        str | None,
        typer.Option(
            help="Attack a search by its answers: faiss:FILE, qdrant:FOLDER:COLLECTION, "
            "postgresql://host/database?table=TABLE, http://host/path."
        ),
    ] = None
    k: Annotated[int, typer.Option("-k", help="Of --search: items of an answer.")] = 10
    item: Annotated[str | None, typer.Option(help="Of rank-promotion: the id of the item; by default drawn.")] = None
    ids: Annotated[
        Path | None, typer.Option(help="What the search calls the gallery's items, one a line; by default 0, 1, …")
    ] = None

    def names(self) -> list[str] | None:
        """What is in the file of ids."""
        from holdfast.data.readers.files import lines  # noqa: PLC0415

        if self.ids is None:
            return None
        return [line.strip() for line in lines(self.ids, "an id of an item in each line") if line.strip()]


OF = {
    "poisons": ("hub",),
    "query_class": ("hub",),
    "made_on": ("hub", "universal", "patch"),
    "area": ("patch",),
}
"""Which attacks an option of :class:`ThreatOptions` goes with."""


@dataclass
class ThreatOptions:
    """Of one image, or one perturbation, for all queries."""

    poisons: Annotated[int | None, typer.Option(help="Of hub: how many gallery images, 1 by default.")] = None
    query_class: Annotated[str | None, typer.Option(help="Of hub: queries of this class alone.")] = None
    made_on: Annotated[
        int | None, typer.Option(help="Of hub, universal, patch: queries it is made on; others are for reading.")
    ] = None
    area: Annotated[float | None, typer.Option(help="Of patch: share of the image, 0.05 by default.")] = None

    def given(self) -> dict[str, Any]:
        """What was asked for."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def check(self, attack: str) -> None:
        """Refuse what does not go with an attack."""
        from holdfast.util.errors import HoldfastError  # noqa: PLC0415

        for name in self.given():
            if attack not in OF[name]:
                option = f"--{name.replace('_', '-')}"
                raise HoldfastError(f"{option} goes with --attack {' or '.join(OF[name])}, not {attack}")


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
        int | None,
        typer.Option("--query-budget", "--budget", help="Of a black box: queries that each attack may make per image."),
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
