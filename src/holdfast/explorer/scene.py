"""Models and the test set they share: embedded once, searched, and asked."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from holdfast.attacks import System
from holdfast.core.gallery import Queries
from holdfast.data import Pixels
from holdfast.defense.recipes import RECIPES
from holdfast.evaluation.evaluate import prepared
from holdfast.evaluation.fingerprint import describe_data
from holdfast.evaluation.indexed.factory import GalleryIndex, check_index
from holdfast.evaluation.indexed.gallery import indexed
from holdfast.evaluation.runner import Target
from holdfast.evaluation.settings import resolve_settings
from holdfast.models.open import open_model
from holdfast.models.test_set import load_test_set
from holdfast.util import distributed
from holdfast.util.errors import HoldfastError

SHARED = ("name", "size", "resize", "channels", "hash")
"""What must be the same of the test sets of models that stand side by side."""


@dataclass(frozen=True, eq=False)
class Model:
    """A model under its name, with what it makes of the test set.

    about: one line on how it was trained. target: as attacks see it, through the index where there is one. exact: the
    system in which every vector is compared.
    """

    name: str
    about: str
    target: Target
    exact: System
    index: GalleryIndex | None = None


@dataclass(frozen=True, eq=False)
class Query:
    """An image that asks.

    image: (1, C, H, W) in [0, 1]. label: the class it counts as. id: its row of the test table; of an upload one that
    the table has not. embeddings: (1, D) for each model.
    """

    image: Tensor
    label: int
    id: int
    embeddings: tuple[Tensor, ...]

    def seen_by(self, model: int) -> Queries:
        z = self.embeddings[model]
        return Queries(z, torch.tensor([self.label], device=z.device), torch.tensor([self.id], device=z.device))


class Scene:
    """Models side by side on one test set."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        self.pixels, self.system = self.models[0].target.pixels, self.models[0].target.system
        self.table = self.pixels.table
        if len(torch.unique(self.system.gallery.labels)) < 2:
            raise HoldfastError(
                "all gallery images are of one class: there is no wrong answer that an attack could bring"
            )

    @property
    def index(self) -> str | None:
        """The word of the index that the gallery is searched by."""
        index = self.models[0].index
        return None if index is None else index.word

    @cached_property
    def rows(self) -> dict[int, int]:
        """The rows of the test table that may ask, and where each stands among the queries."""
        return {row: place for place, row in enumerate(self.system.queries.ids.tolist())}

    @cached_property
    def labels(self) -> dict[int, str]:
        """The classes of the gallery."""
        return {label: self.title(label) for label in torch.unique(self.system.gallery.labels).tolist()}

    @cached_property
    def _words(self) -> list[str]:
        """What each image is found by, beside its number."""
        classes = [self.table.classes[label] for label in self.table.labels]
        if isinstance(self.table.images, np.ndarray):
            return [name.lower() for name in classes]
        return [f"{name} {self.name_of(row)}".lower() for row, name in enumerate(classes)]

    def name_of(self, row: int) -> str:
        """An image's file with its folder, or its number in the test split."""
        if isinstance(self.table.images, np.ndarray):
            return f"no. {self.table.numbers[row]}"
        path = self.table.images[row]
        return f"{path.parent.name}/{path.name}"

    def title(self, label: int) -> str:
        """The name of a class, in words that a narrow column can break."""
        return self.table.classes[label].replace("_", " ")

    def class_of(self, row: int) -> str:
        return self.title(int(self.table.labels[row]))

    def about(self, row: int) -> dict[str, Any]:
        """What the page says of an image."""
        return {"id": row, "name": self.name_of(row), "class": self.class_of(row)}

    def search(self, text: str) -> list[int]:
        """The rows that may ask and whose class, file or number ``text`` names; all of them for an empty text.

        An image of just that number comes first; several words must all be found.
        """
        words = text.lower().split()
        numbered = [row for row in self.rows if words == [str(self.table.numbers[row])]]
        named = [row for row in self.rows if all(word in self._words[row] for word in words)]
        return list(dict.fromkeys([*numbered, *named]))

    def read(self, row: int) -> Tensor:
        """The image of a row of the table, (1, C, H, W) in [0, 1]. Raises HoldfastError where there is none."""
        if not 0 <= row < len(self.table):
            raise HoldfastError(f"there is no image {row}")
        images, readable = self.pixels.read(torch.tensor([row]))
        if not readable.all():
            raise HoldfastError(f"{self.name_of(row)} can no longer be read")
        return images

    def ask(self, row: int) -> Query:
        if row not in self.rows:
            raise HoldfastError(f"image {row} is no query of this test set")
        place = self.rows[row]
        embeddings = tuple(model.target.system.queries.embeddings[place][None] for model in self.models)
        return Query(self.read(row).to(embeddings[0].device), int(self.table.labels[row]), row, embeddings)

    def ask_with(self, image: Tensor) -> tuple[Query, int]:
        """A query that is not in the gallery, (1, C, H, W), and the gallery image nearest to it for the first model,
        whose class it counts as."""
        image = image.to(self.system.gallery.embeddings.device)
        with torch.no_grad():
            embeddings = tuple(model.target.model(image) for model in self.models)
        if not all(z.isfinite().all() for z in embeddings):
            raise HoldfastError("a model gives NaN or infinite embeddings for this image")
        nearest = self.system.items.distances(embeddings[0])[0].argmin()
        label = int(self.system.gallery.labels[nearest])
        return Query(image, label, len(self.table), embeddings), int(self.system.gallery.ids[nearest])


@contextmanager
def open_scene(
    specs: Sequence[str],
    *,
    data: str | None = None,
    root: str | Path | None = None,
    images: int | None = None,
    index: str | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Iterator[Scene]:
    """The scene of some models, which must share one test set; their networks are fixed inside.

    data, root: the test set and where it lies; by default that of the models' own runs. images: so many of it only,
    evenly taken. index: that the gallery is searched by, as :func:`.build_index` has it.

    Raises HoldfastError for what cannot be shown, as far as possible before anything is embedded.
    """
    if not specs:
        raise HoldfastError("name at least one model")
    if images is not None and images < 2:
        raise HoldfastError(f"--max-images is at least 2, not {images}")
    check_index(index)
    opened = [open_model(spec) for spec in specs]
    if black := [spec for spec, model in zip(specs, opened, strict=True) if model.black_box]:
        raise HoldfastError(
            f"{black[0]} is a black box, and the explorer follows gradients; audit it: holdfast evaluate {black[0]}"
        )
    sets = [load_test_set(model, data=data, root=root) for model in opened]
    facts = [describe_data(pixels) for pixels in sets]
    for model, fact in zip(opened, facts, strict=True):
        if any(fact[key] != facts[0][key] for key in SHARED):
            one, other = (
                f"{m.name} has {f['name']} at {f['size']} pixels" for m, f in ((opened[0], facts[0]), (model, fact))
            )
            same = " (other images or other classes)" if facts[0]["name"] == fact["name"] else ""
            raise HoldfastError(f"models side by side need one test set: {one}, {other}{same}")
    pixels, where = _fewer(sets[0], images), distributed.device(device)
    resolved, names = resolve_settings(pixels.table.family, index=index), _distinct([model.name for model in opened])
    with ExitStack() as stack:
        models = []
        for model, name in zip(opened, names, strict=True):
            target = stack.enter_context(prepared(model.embed, pixels, resolved, where, quiet))
            target.model.width = 1  # from here on one image is passed at a time, and not 64 for the sake of one
            target = replace(target, system=replace(target.system, width=1))
            through, built = indexed(target, resolved)
            models.append(Model(name, _about(model.about), through, target.system, built))
        yield Scene(models)


def _fewer(pixels: Pixels, images: int | None) -> Pixels:
    count = len(pixels)
    if images is None or images >= count:
        return pixels
    mask = np.zeros(count, np.bool_)
    mask[np.linspace(0, count - 1, images).round().astype(int)] = True
    return pixels.alike(pixels.table.select(mask))


def _distinct(names: Sequence[str]) -> list[str]:
    return [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]


def _about(facts: Mapping[str, Any]) -> str:
    name = facts.get("recipe")
    recipe = RECIPES.get(name or "")
    return f"{name}: {recipe.summary}" if recipe else str(name or facts.get("backbone") or "a model")
