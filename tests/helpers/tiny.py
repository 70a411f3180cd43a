"""A retrieval system small enough to be attacked in a moment: a few digits, and a network with random weights."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from holdfast.core.gallery import Gallery, Queries
from holdfast.data import Pixels, Table, load_dataset
from holdfast.models.embedder import Embedder, EmbedderConfig

QUICK: dict[str, Any] = {
    **{"steps": 2, "max_queries": 12, "cascade": False},
    **{"checks": False, "quiet": True, "device": "cpu"},
}
NINE = ("ca+", "ca-", "qa+", "qa-", "tma", "es", "ltm", "gtm", "gtt")


def embedder(seed: int = 0, channels: int = 1) -> Embedder:
    """c2f2 with random weights, from 8 pixels to 16 dimensions; it retrieves eight digits in ten."""
    torch.manual_seed(seed)
    return Embedder(EmbedderConfig("c2f2", dim=16, channels=channels, size=8)).eval()


def interrupt(*_: object) -> None:
    """As Ctrl+C."""
    raise KeyboardInterrupt


def counted(
    model: Callable[[Tensor], Tensor], fatal: int | None = None, end: Callable[[], None] = interrupt
) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """A function that embeds, and how often it was called; ``end`` comes at the ``fatal``-th call."""
    calls = [0]

    def embed(images: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] == fatal:
            end()
        return model(images)

    return embed, calls


def digits(count: int = 100) -> Pixels:
    """The first test digits."""
    table = load_dataset("digits").test()
    return Pixels(table.select(np.arange(len(table)) < count), 8, channels=1)


def same_set(embeddings: Tensor, labels: Tensor) -> tuple[Queries, Gallery]:
    """A whole test set as queries and as gallery."""
    ids = torch.arange(len(embeddings))
    return Queries(embeddings, labels, ids), Gallery(embeddings, labels, ids)


def pair(count: int = 100) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The same as plain arrays."""
    table = digits(count).table
    assert isinstance(table.images, np.ndarray)
    return table.images, table.labels


def sided(labels: list[int], is_query: list[bool], is_gallery: list[bool], train: int = 0) -> Pixels:
    """Digits with these labels and sides, behind ``train`` training images."""
    images = pair(train + len(labels))[0]
    sides = (np.array([False] * train + side) for side in (is_query, is_gallery))
    split = ["train"] * train + ["test"] * len(labels)
    keys = [0] * train + labels
    query, gallery = sides
    table = Table.build("sided", images, keys, split, is_query=query, is_gallery=gallery)
    return Pixels(replace(table, family="28"), 8, channels=1)


def photos(root: Path, classes: str = "abcd", each: int = 5, seed: int = 0) -> Path:
    """A folder per class of colour images, 8 pixels square."""
    generators = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        shade = generators.integers(40, 216, (8, 8, 3))
        for i in range(each):
            pixels = (shade + generators.integers(-40, 40, (8, 8, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def records(folder: Path) -> dict[str, bytes]:
    """The record files of an evaluation."""
    return {name: content for name, content in snapshot(folder).items() if "records/" in name}


def rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def lasting(content: Mapping[str, Any]) -> dict[str, Any]:
    """What two evaluations of the same have in common: all but the time they took and where they ran."""
    cost = {name: value for name, value in content["cost"].items() if name != "seconds"}
    return {**content, "cost": cost, "environment": None}
