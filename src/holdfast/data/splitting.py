"""A validation split, taken from the training images: weights are chosen on it, so that the test set stays unseen."""

from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from holdfast.data.table import Table


def with_validation(table: Table, share: float, seed: int) -> Table:
    """The table with about ``share`` of its training split as validation split; as it is where it has one already.

    Whole classes of a zero-shot set (no class both trains and tests), where the share makes two or more; else images of
    every class. Each is drawn by its own name and the seed: which others there are, or can be read, changes nothing.
    A training split so small that no two classes get two images each is left whole.
    """
    train = table.split == "train"
    if not share or not train.any() or (table.split == "validation").any():
        return table
    present, unseen = (np.unique(table.labels[table.split == name]) for name in ("train", "test"))
    if len(unseen) and share * len(present) >= 2 and not np.isin(present, unseen).any():
        draws = _draws((table.classes[label] for label in present), seed)
        few = np.sort(draws)[1]
        drawn = train & np.isin(table.labels, present[(draws < share) | (draws <= few)])
    else:
        drawn = train.copy()
        drawn[train] = _draws((_key(table, i) for i in np.flatnonzero(train).tolist()), seed) < share
    if np.count_nonzero(np.bincount(table.labels[drawn]) > 1) < 2:
        return table
    split = np.where(drawn, "validation", table.split)
    return replace(table, split=split, is_query=table.is_query | drawn, is_gallery=table.is_gallery | drawn)


def _key(table: Table, i: int) -> str:
    """What names an image wherever its data set lies: class and file, or the number."""
    if isinstance(table.images, np.ndarray):
        return str(table.numbers[i])
    return f"{table.classes[table.labels[i]]}/{table.images[i].name}"


def _draws(names: Iterable[str], seed: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each name, evenly spread, the same on every machine."""
    hashes = (blake2b(f"{seed}/{name}".encode(errors="surrogateescape"), digest_size=6) for name in names)
    return np.array([int.from_bytes(one.digest()) for one in hashes]) / 2**48
