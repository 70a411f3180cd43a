"""What every adapter gives: a model that is ready to embed, and what is known of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.core.pgd import Embed
from holdfast.models.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """A model that :func:`.open_model` opened.

    embed: images (n, C, H, W) in [0, 1] to vectors (n, D); mean and std are inside it.
    name: in tables.
    about: what results say of the model, as plain data.
    preprocessing: how it is shown images; None where it does not say, so that the data set decides.
    folder: the run folder it was read from, whose test set is its own; None for any other model.
    word: what it was opened by; None for an object.
    black_box: it gives vectors only, and no gradients.
    remarks: what a reader of its results should know of how it was opened.
    """

    embed: Embed
    name: str
    about: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    folder: Path | None = None
    word: str | None = None
    black_box: bool = False
    remarks: tuple[str, ...] = ()


def named(word: str, embed: Embed, weights: Path | None, preprocessing: Preprocessing | None) -> OpenedModel:
    """A model that no run of holdfast made."""
    name = word.replace("/", "-").replace(":", "-").strip("-.")
    about = {"recipe": None, "backbone": word, "weights": None if weights is None else weights.name}
    return OpenedModel(embed, name, about, preprocessing, word=word)
