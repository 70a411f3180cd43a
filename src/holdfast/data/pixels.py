"""From a table's images to tensors in [0, 1], with resize, crop and flip; and from a tensor back to an image."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from holdfast.data.decode import decode
from holdfast.data.memory import available_memory
from holdfast.data.resizing import SQUASHED, Resizing
from holdfast.data.table import Table
from holdfast.util.errors import HoldfastError, brief
from holdfast.util.text import counted

Progress = Callable[[int, int], None]
"""Called with the number of images done and their total."""

Found = tuple[dict[int, str], npt.NDArray[np.int64]]
"""What was found of images: why some cannot be read, by index, and hashes (N,) of the others; 0: not read yet."""

_MODES = {1: "L", 3: "RGB"}


def draw_augmentation(n: int, generator: torch.Generator) -> Tensor:
    """(n, 3) in [0, 1): for each of ``n`` images what decides its crop's height, its crop's width and its flip.

    Drawn for a whole batch at once, its rows can be shared out: every rank draws the same and keeps its own rows.
    """
    return torch.rand(n, 3, generator=generator, dtype=torch.float64)


def to_image(pixels: Tensor) -> Image.Image:
    """Pixels (C, H, W) in [0, 1], one channel or three, as an image of 8 bits; values beyond are clipped."""
    levels = (pixels.clamp(0, 1).cpu() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def from_image(image: Image.Image, channels: int) -> Tensor:
    """An image as pixels (channels, H, W) in [0, 1]; channels: 1 (grey) or 3 (colour)."""
    levels = np.array(image.convert(_MODES[channels]), np.float32).reshape(image.height, image.width, channels)
    return torch.from_numpy(levels).permute(2, 0, 1) / 255


class Pixels:
    """The images of a table as float32 tensors (C, size, size) in [0, 1].

    size: of the images that are read, in pixels.
    resize: side of the square every image is brought to before cropping; None: ``size``.
    channels: 1 (grey) or 3 (colour).
    resizing: how it is brought there; by default squashed, bilinear.
    cache: keep the decoded images in memory, as uint8 at the ``resize`` side.
    workers: threads that decode.
    max_broken: how many images may turn out unreadable before :meth:`read` raises; None: 1 % of them, at least 10.

    ``broken`` maps the index of each unreadable image found so far to the reason.
    """

    def __init__(
        self,
        table: Table,
        size: int,
        resize: int | None = None,
        *,
        channels: int = 3,
        resizing: Resizing = SQUASHED,
        cache: bool = False,
        workers: int = 2,
        max_broken: int | None = None,
    ) -> None:
        self.table = table
        self.size = size
        self.resizing = resizing
        self.side = size if resize is None else resize
        self.channels = channels
        self.max_broken = max(10, len(table) // 100) if max_broken is None else max_broken
        self.broken: dict[int, str] = {}
        if channels not in _MODES:
            raise HoldfastError(f"channels is {channels}; it must be 1 (grey) or 3 (colour)")
        if size < 1 or self.side < size:
            raise HoldfastError(f"images of size {size} cannot be cropped from a resize of {self.side}")
        if workers < 1:
            raise HoldfastError(f"workers is {workers}; at least 1 thread must decode")
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._hashes = np.zeros(len(table), np.int64)
        self._cached = torch.zeros(len(table), dtype=torch.bool)
        self._cache = self._allocate() if cache and not self._is_ready() else None

    def __len__(self) -> int:
        return len(self.table)

    def alike(self, table: Table, workers: int = 2) -> "Pixels":
        """Another table's images, brought to the same size in the same way."""
        return Pixels(table, self.size, self.side, channels=self.channels, resizing=self.resizing, workers=workers)

    def read(self, indices: Tensor, augment: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The images at ``indices`` ((B,) int64), and which of them could be read.

        augment: (B, 3) rows of :func:`draw_augmentation` for a random crop and horizontal flip; None: the centre crop.
        Returns float32 (B, C, size, size) in [0, 1] and bool (B,); an unreadable image is black and False.
        """
        rows = indices.tolist()
        if augment is not None and augment.shape != (len(rows), 3):
            raise ValueError(f"augment has shape {tuple(augment.shape)}, not {(len(rows), 3)}")
        stored = self._stored(rows)
        ok = torch.tensor([i not in self.broken for i in rows], dtype=torch.bool)
        if augment is None:
            margin = self.resizing.margin(self.side - self.size)
            stored = stored[..., margin : margin + self.size, margin : margin + self.size]
            self._hashes[rows] = [_digest(image) for image in stored.numpy()]
            self._hashes[indices[~ok]] = 0
        images = self._crop(stored, augment).div_(255)
        images[~ok] = 0
        return images, ok

    def found(self) -> Found:
        """What was found so far, for :meth:`adopt` of another process."""
        return self.broken, self._hashes

    def adopt(self, found: Found) -> None:
        """Take over what another process found of images of the same table. Raises as :meth:`read`."""
        broken, hashes = found
        self.broken = dict(sorted((self.broken | broken).items()))
        self._hashes = np.where(hashes == 0, self._hashes, hashes)
        self._check_broken()

    def remarks(self) -> list[str]:
        """What a reader of scores should know of the images, as far as they were read at the centre crop."""
        name = self.table.short_name_of
        remarks = [f"left out of the data: {one}" for one in self.table.left_out]
        if self.broken:
            first = min(self.broken)
            remarks.append(
                f"left out of the data: {counted(len(self.broken), 'image')} that cannot be read, the first is "
                f"{name(first)} ({self.broken[first]})"
            )
        rows = np.flatnonzero(self._hashes)
        _, same, counts = np.unique(self._hashes[rows], return_inverse=True, return_counts=True)
        copies = rows[counts[same] > 1]
        if len(copies):
            one, other = copies[self._hashes[copies] == self._hashes[copies[0]]][:2].tolist()
            classes = Counter(key for key, _ in {(self._hashes[i], self.table.labels[i]) for i in copies})
            several = sum(count > 1 for count in classes.values())
            remarks.append(
                f"{counted(len(copies), 'image has', 'images have')} a copy, the same pixel for pixel, such as "
                f"{name(one)} and {name(other)}: a copy is found at distance 0; in several classes: {several:,} of "
                f"{counted(len(classes), 'such picture')}"
            )
        return remarks

    def verify(self, progress: Progress | None = None) -> dict[int, str]:
        """Decode every image once and return the index and the reason of each that cannot be read."""
        broken = {}
        for i, reason in enumerate(self._pool.map(self._reason, range(len(self)))):
            if reason is not None:
                broken[i] = reason
            if progress is not None:
                progress(i + 1, len(self))
        return broken

    def _is_ready(self) -> bool:
        """Whether the table is an array that already has the wanted size and needs no conversion to grey."""
        images = self.table.images
        if not isinstance(images, np.ndarray) or images.shape[1:3] != (self.side, self.side):
            return False
        return images.ndim == 3 or self.channels == 3

    def _allocate(self) -> Tensor:
        shape = (len(self), self.channels, self.side, self.side)
        needed, available = int(np.prod(shape)), available_memory()
        if available is not None and needed > available // 2:
            raise HoldfastError(
                f"{self.table.name}: a cache of {counted(len(self), 'image')} of {self.side}x{self.side} needs "
                f"{needed / 1e9:.2f} GB; {available / 1e9:.2f} GB of memory are available and half of that may be "
                "used: read without the cache, or resize to less"
            )
        return torch.empty(shape, dtype=torch.uint8)

    def _stored(self, rows: list[int]) -> Tensor:
        """(B, C, side, side) uint8."""
        images = self.table.images
        if isinstance(images, np.ndarray) and self._is_ready():
            taken = torch.from_numpy(images[np.asarray(rows, np.int64)])
            if images.ndim == 4:
                return taken.permute(0, 3, 1, 2)
            return taken.unsqueeze(1).expand(-1, self.channels, -1, -1)
        if self._cache is None:
            stored = torch.zeros(len(rows), self.channels, self.side, self.side, dtype=torch.uint8)
            self._fill(rows, list(stored))
            return stored
        new = [i for i in dict.fromkeys(rows) if not self._cached[i]]
        self._fill(new, [self._cache[i] for i in new])
        self._cached[[i for i in new if i not in self.broken]] = True
        return self._cache.index_select(0, torch.tensor(rows))

    def _fill(self, rows: Sequence[int], places: Sequence[Tensor]) -> None:
        """Decode each image into its place (C, side, side); the unreadable are noted, and too many of them raise."""
        list(self._pool.map(self._fill_one, rows, places))
        self._check_broken()

    def _check_broken(self) -> None:
        if len(self.broken) > self.max_broken:
            named = "; ".join(f"{self.table.name_of(i)} ({why})" for i, why in list(self.broken.items())[:3])
            raise HoldfastError(
                f"{len(self.broken)} of {counted(len(self), 'image')} cannot be read, more than the "
                f"{self.max_broken} allowed: {named}{'; …' if len(self.broken) > 3 else ''}"
            )

    def _fill_one(self, i: int, place: Tensor) -> None:
        if i in self.broken:
            return
        try:
            place.numpy()[...] = self._decode(i).transpose(2, 0, 1)
        except Exception as error:
            self.broken[i] = _why(error)

    def _reason(self, i: int) -> str | None:
        try:
            self._decode(i)
        except Exception as error:
            return _why(error)
        return None

    def _decode(self, i: int) -> npt.NDArray[np.uint8]:
        """Image ``i`` as (side, side, C) uint8."""
        images = self.table.images
        image = Image.fromarray(images[i]) if isinstance(images, np.ndarray) else decode(images[i])[0]
        square = self.resizing.square(image.convert(_MODES[self.channels]), self.side, self.size)
        return np.array(square, np.uint8).reshape(self.side, self.side, self.channels)

    def _crop(self, stored: Tensor, augment: Tensor | None) -> Tensor:
        """From (B, C, side, side) uint8, or without ``augment`` (B, C, size, size), to float32, still in [0, 255]."""
        size, margin = self.size, self.side - self.size
        cropped = torch.empty(len(stored), self.channels, size, size)
        if augment is None:
            return cropped.copy_(stored)
        corners = (augment[:, :2] * (margin + 1)).long().clamp(max=margin).tolist()
        flips = (augment[:, 2] < 0.5).tolist()
        for image, (top, left), flip, out in zip(stored, corners, flips, cropped, strict=True):
            window = image[:, top : top + size, left : left + size]
            out.copy_(window.flip(-1) if flip else window)
        return cropped


def _digest(image: npt.NDArray[np.uint8]) -> int:
    """64 bits of an image, the same in every process."""
    return int.from_bytes(blake2b(image.tobytes(), digest_size=8).digest(), signed=True)


def _why(error: Exception) -> str:
    return brief(error)
