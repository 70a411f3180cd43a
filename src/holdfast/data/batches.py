"""Which images make up each batch of an epoch: pairs of one class, groups of K, or single images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Indices:
    """One batch of one rank.

    indices: (B,) int64, rows of the table; the images of a group are adjacent.
    anchors: (A,) int64, the positions in the batch that are anchors, the first of each group.
    offset: the position of this rank's first image in the global batch.
    total: images in the global batch.
    """

    indices: Tensor
    anchors: Tensor
    offset: int
    total: int


class PairBatches:
    """Epochs of pairs: every image is once an anchor, with ``per_class - 1`` random other images of its class.

    labels: (N,) integers.
    pairs: groups per global batch; each of the ``world`` ranks takes its contiguous share.
    per_class: images in a group, K; a class with fewer is left out, ``left_out`` counts these classes.

    An epoch depends on ``(seed, epoch)`` alone, not on what was drawn before. Every rank's share of every batch holds
    at least two classes: a share that the permutation gave one class trades its last group for one of another class.
    The last batch is smaller, trimmed to a multiple of ``world``, and dropped where a share would be a single group.
    Apart from such a trade and such a trim, the shares of all ranks in order are the batch of a single process.
    """

    def __init__(
        self, labels: Rows | Tensor, pairs: int, per_class: int = 2, *, seed: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        if per_class < 2:
            raise HoldfastError(f"per_class is {per_class}; a group needs at least 2 images of its class")
        if seed < 0:
            raise HoldfastError(f"seed is {seed}; it must not be negative")
        if not 0 <= rank < world:
            raise HoldfastError(f"rank {rank} is not one of {counted(world, 'process')}")
        if pairs % world:
            raise HoldfastError(
                f"{counted(pairs, 'pair')} cannot be shared equally by {counted(world, 'process')}: "
                f"use a multiple of {world}"
            )
        if pairs < 2 * world:
            raise HoldfastError(
                f"{counted(pairs, 'pair')} on {counted(world, 'process')}: a share of fewer than 2 "
                "pairs cannot hold two classes"
            )
        self.labels = np.asarray(labels).astype(np.int64)
        self.pairs, self.per_class, self.seed, self.rank, self.world = pairs, per_class, seed, rank, world

        _, inverse, counts = np.unique(self.labels, return_inverse=True, return_counts=True)
        self._classes = len(counts)
        self.left_out = int((counts < per_class).sum())
        self._images_left_out = int(counts[counts < per_class].sum())
        kept = np.flatnonzero(counts[inverse] >= per_class)
        self._by_class = kept[np.argsort(self.labels[kept], kind="stable")]
        if self._classes - self.left_out < 2:
            raise HoldfastError(
                f"with {per_class} images or more: {self._classes - self.left_out} of "
                f"{counted(self._classes, 'class')}; training needs two such classes"
            )
        sizes = counts[counts >= per_class]
        self._size = np.repeat(sizes, sizes)
        self._start = np.repeat(np.cumsum(sizes) - sizes, sizes)
        self._bounds = self._shares()
        if not len(self):
            raise HoldfastError(
                f"{counted(len(self._by_class), 'image')} cannot give each of {counted(world, 'process')} 2 pairs"
            )
        others = int(sizes.sum() - sizes.max())
        if others < len(self._bounds) - 1:
            raise HoldfastError(
                f"one class has {sizes.max():,} of {sizes.sum():,} training images: shares of "
                f"{counted(pairs // world, 'pair')} cannot all hold two classes; use more pairs"
            )

    @property
    def count(self) -> int:
        """How many images there are to draw from."""
        return len(self.labels)

    def __len__(self) -> int:
        """Batches per epoch, the same for every epoch and rank."""
        return (len(self._bounds) - 1) // self.world

    def describe(self) -> str:
        """One line: the batches of an epoch, and what is left out."""
        groups = counted(self.pairs, "pair" if self.per_class == 2 else "group")
        each = "" if self.per_class == 2 else f" of {self.per_class}"
        images, batches = counted(len(self._by_class), "image"), counted(len(self), "batch")
        text = f"{images}, {batches} of {groups}{each} per epoch"
        if self.left_out:
            text += (
                f"; left out, for fewer than {self.per_class} images: {self.left_out:,} of "
                f"{counted(self._classes, 'class')} ({counted(self._images_left_out, 'image')})"
            )
        return text

    def epoch(self, e: int) -> list[Indices]:
        """This rank's batches of epoch ``e``."""
        generator = np.random.default_rng([self.seed, e])
        places = generator.permutation(len(self._by_class))
        self._repair(places)
        groups = self._by_class[self._groups(places, generator)]
        batches = []
        for step in range(len(self)):
            bounds = self._bounds[step * self.world : (step + 1) * self.world + 1]
            start, stop = bounds[self.rank], bounds[self.rank + 1]
            indices = torch.from_numpy(groups[start:stop].reshape(-1))
            offset, total = ((place - bounds[0]) * self.per_class for place in (start, bounds[-1]))
            batches.append(Indices(indices, torch.arange(0, len(indices), self.per_class), offset, total))
        return batches

    def _shares(self) -> list[int]:
        """Where each rank's share of each batch begins in the order of an epoch, and the end of the last one."""
        n = len(self._by_class)
        full, rest = divmod(n, self.pairs)
        share = self.pairs // self.world
        bounds = list(range(0, full * self.pairs + 1, share))
        last = rest // self.world
        if last >= 2:
            bounds += [bounds[-1] + (r + 1) * last for r in range(self.world)]
        return bounds

    def _repair(self, places: Rows) -> None:
        """Swap anchors, in place, until every share holds two classes.

        A share of class c alone takes a group of another class from a share that has two groups outside c to spare
        (or from the trimmed tail). There is one whenever the groups outside c are no fewer than the shares.
        """
        labels = self.labels[self._by_class[places]]
        bounds = self._bounds
        starts = np.asarray(bounds[:-1])
        used = labels[: bounds[-1]]
        alone = np.minimum.reduceat(used, starts) == np.maximum.reduceat(used, starts)
        for share in np.flatnonzero(alone):
            begin, last = bounds[share], bounds[share + 1] - 1
            if (labels[begin:last] != labels[last]).any():
                continue  # an earlier swap has already mended it
            other = labels != labels[last]
            spare = np.add.reduceat(other[: bounds[-1]], starts) >= 2
            donors = other.copy()
            donors[: bounds[-1]] &= np.repeat(spare, np.diff(bounds))
            after = np.flatnonzero(donors[last:])
            donor = last + after[0] if len(after) else np.flatnonzero(donors)[-1]
            places[[last, donor]] = places[[donor, last]]
            labels[[last, donor]] = labels[[donor, last]]

    def _groups(self, places: Rows, generator: np.random.Generator) -> Rows:
        """(N, K): each anchor's place and K − 1 distinct other places of its class, uniformly (Floyd's algorithm)."""
        start, size = self._start[places], self._size[places]
        shifts = np.zeros((len(places), self.per_class), np.int64)
        for k in range(1, self.per_class):
            highest = size - self.per_class + k
            shift = generator.integers(1, highest + 1)
            taken = (shifts[:, 1:k] == shift[:, None]).any(axis=1)
            shifts[:, k] = np.where(taken, highest, shift)
        return np.asarray(start[:, None] + ((places - start)[:, None] + shifts) % size[:, None])


class ImageBatches:
    """Epochs of single images, each drawn once, for training without classes.

    count: how many images there are. size: images per global batch, of which each of the ``world`` ranks takes its
    contiguous share.

    An epoch depends on ``(seed, epoch)`` alone. The last batch is smaller, trimmed to a multiple of ``world``. The
    shares of all ranks in order are the batch of a single process, but for that trim.
    """

    per_class = 1

    def __init__(self, count: int, size: int, *, seed: int = 0, rank: int = 0, world: int = 1) -> None:
        if size % world:
            raise HoldfastError(
                f"{size} images cannot be shared equally by {world} processes: use a multiple of {world}"
            )
        if count < world:
            raise HoldfastError(f"{count} training images cannot give each of {world} processes one")
        self.count, self.size, self.seed, self.rank, self.world = count, size, seed, rank, world

    def __len__(self) -> int:
        """Batches per epoch, the same for every epoch and rank."""
        full, rest = divmod(self.count, self.size)
        return full + (rest >= self.world)

    def describe(self) -> str:
        """One line: the batches of an epoch."""
        return f"{self.count:,} images without their classes, {counted(len(self), 'batch')} of {self.size} per epoch"

    def epoch(self, e: int) -> list[Indices]:
        """This rank's batches of epoch ``e``."""
        order = np.random.default_rng([self.seed, e]).permutation(self.count)
        batches = []
        for begin in range(0, len(self) * self.size, self.size):
            share = min(self.size, self.count - begin) // self.world
            start = self.rank * share
            indices = torch.from_numpy(order[begin + start : begin + start + share])
            batches.append(Indices(indices, torch.arange(share), start, share * self.world))
        return batches
