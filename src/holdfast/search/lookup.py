"""Folders to embed and images to search with, by name: what the command line asks for."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from holdfast.core.pgd import Embed
from holdfast.data import Table
from holdfast.data.readers.listing import listed
from holdfast.models.open import lasting, open_model
from holdfast.models.preprocessing import Preprocessing
from holdfast.search.index import Index
from holdfast.util.errors import HoldfastError, printable
from holdfast.util.text import to_csv, to_json

HOW = ("pooling", "mean", "std")
"""Options by which an index's model is opened again."""


def embed_files(
    source: str | Path,
    spec: str,
    out: str | Path,
    *,
    weights: Path | None = None,
    size: int | None = None,
    resize: int | None = None,
    channels: int | None = None,
    pooling: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> Index:
    """Embed the images of a folder or CSV, as :func:`.listed` finds them, by the model ``spec`` into the index ``out``.

    size, resize, channels, pooling, mean, std: of :func:`.open_model`. options: of :meth:`.Index.build`.
    """
    table, root = listed(source)
    how: dict[str, Any] = {"pooling": pooling, "mean": mean, "std": std}
    model = open_model(spec, weights=weights, size=size, resize=resize, channels=channels, **how)
    pixels = (model.preprocessing or Preprocessing()).pixels(table, max_broken=len(table))
    about = {"spec": lasting(spec), "weights": weights and str(weights.resolve()), "left_out": list(table.left_out)}
    about |= {**how, "remarks": list(model.remarks)}
    return Index.build(model.embed, pixels, out, root=root, about=about, **options)


@dataclass(frozen=True)
class Answer:
    """One result of one query: ``rank`` from 1, Euclidean ``distance`` of unit vectors, the image's label and path."""

    query: str
    rank: int
    distance: float
    label: str
    path: str


def model_of(index: Index, spec: str | None = None, weights: Path | None = None) -> Embed:
    """The model that an index says it was made by, or ``spec``, where that lies now. Code that it names is run."""
    if spec is not None:
        normalised: dict[str, Any] = {}
        if spec.startswith("onnx:"):
            normalised = {key: index.about.get(key) for key in ("mean", "std")}
        return open_model(spec, weights=weights, **normalised).embed
    named, stored = (index.about.get(key) for key in ("spec", "weights"))
    how: dict[str, Any] = {key: index.about.get(key) for key in HOW}
    if not named:
        raise HoldfastError("the index does not say which model made it; name it with --model")
    try:
        return open_model(named, weights=weights or stored or None, **how).embed
    except HoldfastError as error:
        raise HoldfastError(f"the model of the index: {error}; say with --model where it is now") from error


def answer(
    index: Index, embed: Embed, queries: Table, k: int = 10, *, backend: str = "torch", device: str | None = None
) -> tuple[list[Answer], dict[str, str]]:
    """The ``k`` results of each query, query after query; and why the others, by their names, cannot be read.

    ``embed`` must be the model that made the index.
    """
    pixels = index.preprocessing.pixels(queries, max_broken=len(queries))
    z, asking = index.queries(embed, pixels, device)
    found = []
    if len(asking):
        distances, rows = (part.tolist() for part in index.search(z, k, backend))
        for row, near, there in zip(asking.tolist(), distances, rows, strict=True):
            for rank, (distance, i) in enumerate(zip(near, there, strict=True), start=1):
                found.append(Answer(queries.name_of(row), rank, distance, index.labels[i], index.paths[i]))
    return found, {queries.name_of(row): reason for row, reason in sorted(pixels.broken.items())}


def by_query(answers: Sequence[Answer]) -> list[list[Answer]]:
    """The results of each query together."""
    starts = [i for i, one in enumerate(answers) if one.rank == 1]
    return [list(answers[start:end]) for start, end in pairwise([*starts, len(answers)])]


def lines(answers: Sequence[Answer]) -> str:
    """One line each, its parts apart by tabs; in a name, what would break the line is escaped."""
    rows = ([one.query, one.rank, f"{one.distance:.4f}", one.label, one.path] for one in answers)
    return "".join("\t".join(printable(str(part)) for part in row) + "\n" for row in rows)


STYLES: dict[str, Callable[[Sequence[Answer]], str]] = {
    "lines": lines,
    "csv": lambda answers: to_csv([[field.name for field in fields(Answer)], *map(astuple, answers)]),
    "json": lambda answers: to_json([asdict(one) for one in answers]),
}
