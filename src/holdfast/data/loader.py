"""Batches of images, each prepared while the one before is being used."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from holdfast.data.batches import ImageBatches, Indices, PairBatches
from holdfast.data.pixels import Pixels, Progress, draw_augmentation
from holdfast.data.table import Table
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class Batch:
    """One training batch.

    step: its place in the epoch.
    images: (B, C, H, W) float32 in [0, 1].
    labels: (B,) int64.
    anchors: (A,) int64, positions in the batch; each has at least one other image of its class next to it.
    indices: (B,) int64, rows of ``table``.
    """

    step: int
    images: Tensor
    labels: Tensor
    anchors: Tensor
    indices: Tensor
    table: Table

    def names(self) -> list[str]:
        """The file (or array place) of each image, for messages."""
        return [self.table.name_of(i) for i in self.indices.tolist()]


class Loader:
    """The training batches of an epoch, in order, one prepared ahead in a thread.

    augment: random crop and flip, seeded by ``(seed, epoch, step)`` for the global batch; else the centre crop.

    A broken image leaves its group, and a pair or group left with one image is left out. A batch left with nothing, or
    of pairs with one class, is skipped and counted in ``skipped``; with several processes it is an error, for the
    others would wait for ever.
    ``waited`` adds up the seconds spent waiting for images.
    """

    def __init__(
        self, pixels: Pixels, batches: PairBatches | ImageBatches, seed: int = 0, augment: bool = False
    ) -> None:
        if batches.count != len(pixels):
            raise HoldfastError(
                f"{counted(batches.count, 'label')} in the batches but {counted(len(pixels), 'image')} in the table"
            )
        self.pixels, self.batches, self.seed, self.augment = pixels, batches, seed, augment
        self.waited, self.skipped = 0.0, 0

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, e: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``e`` from step ``start_step`` on, the same as in an epoch begun at 0."""
        if not 0 <= start_step <= len(self):
            raise HoldfastError(f"step {start_step} is not in an epoch of {counted(len(self), 'step')}")
        steps = list(enumerate(self.batches.epoch(e)))[start_step:]
        made = _ahead(lambda step: self._make(e, *step), steps)
        for _ in steps:
            begin = perf_counter()
            batch = next(made)
            self.waited += perf_counter() - begin
            if batch is None:
                self.skipped += 1
            else:
                yield batch

    def _make(self, e: int, step: int, chosen: Indices) -> Batch | None:
        augment = None
        if self.augment:
            entropy = np.random.SeedSequence((self.seed, e, step)).generate_state(1, np.uint64)
            rows = draw_augmentation(chosen.total, torch.Generator().manual_seed(int(entropy[0])))
            augment = rows[chosen.offset : chosen.offset + len(chosen.indices)]
        images, ok = self.pixels.read(chosen.indices, augment)
        anchors, indices = chosen.anchors, chosen.indices
        if not ok.all():
            groups = ok.view(-1, self.batches.per_class)
            keep = (groups & (groups.sum(1, keepdim=True) >= min(2, groups.shape[1]))).view(-1)
            anchors = (keep.cumsum(0) - 1)[anchors[keep[anchors]]]
            images, indices = images[keep], indices[keep]
        labels = torch.from_numpy(self.pixels.table.labels)[indices]
        if not len(anchors) or (self.batches.per_class > 1 and bool((labels == labels[0]).all())):
            if self.batches.world > 1:
                least = "fewer than two classes" if self.batches.per_class > 1 else "no image"
                broken = self.pixels.table.name_of(next(iter(self.pixels.broken)))
                raise HoldfastError(
                    f"epoch {e}, step {step}: unreadable images leave rank {self.batches.rank} with {least}; "
                    f"remove them, the first is {broken}"
                )
            return None
        return Batch(step, images, labels, anchors, indices, self.pixels.table)


def stream(
    pixels: Pixels, batch_size: int, rows: Tensor | None = None, progress: Progress | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order (or those at ``rows``), centre-cropped, without the unreadable, one batch ahead.

    Yields indices (B,) int64 and images (B, C, size, size) float32 in [0, 1].
    """
    rows = torch.arange(len(pixels)) if rows is None else rows
    done = 0
    parts = [rows[begin : begin + batch_size] for begin in range(0, len(rows), batch_size)]
    for part, (images, ok) in zip(parts, _ahead(pixels.read, parts), strict=True):
        if ok.all():
            yield part, images
        elif ok.any():
            yield part[ok], images[ok]
        done += len(part)
        if progress is not None:
            progress(done, len(rows))


def _ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """``make(item)`` for each item, the next one always under way in a thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        pending: deque[Future[Made]] = deque()
        for item in items:
            pending.append(pool.submit(make, item))
            if len(pending) > 1:
                yield pending.popleft().result()
        yield from (last.result() for last in pending)
