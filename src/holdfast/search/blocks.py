"""Many images as embeddings, in blocks that outlive a kill."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from holdfast.core.fused import PRECISIONS
from holdfast.core.pgd import Embed
from holdfast.data import Pixels
from holdfast.data.resizing import SQUASHED
from holdfast.models.wrapped import WrappedModel
from holdfast.util import distributed
from holdfast.util.arrays import read_arrays, write_arrays
from holdfast.util.errors import HoldfastError, pick, printable
from holdfast.util.progress import Progress
from holdfast.util.text import counted

BLOCK = 512
"""Images that are kept together once they are embedded."""

REFERENCES = 8

Make = Callable[..., tuple[Tensor, Tensor]]
"""From ``rows`` of a table to embeddings (n, D) of the readable images, and their rows; tells its ``progress``."""


def references(size: int, channels: int) -> Tensor:
    """The same (8, channels, size, size) in [0, 1] everywhere, of coarse and fine noise: they tell models apart."""
    generators = Generator().manual_seed(0)
    coarse, fine = (torch.rand(REFERENCES, channels, side, side, generator=generators) for side in (4, size))
    return (F.interpolate(coarse, (size, size), mode="bilinear") + fine) / 2


@contextmanager
def examined(
    embed: Embed, pixels: Pixels, device: torch.device, *, precision: str, width: int
) -> Iterator[tuple[WrappedModel, Tensor]]:
    """A model that was looked at, fixed for the time being, and its embeddings (8, D) of the reference images."""
    pick("precision", precision, PRECISIONS)
    wrapped = WrappedModel(embed.to(device) if isinstance(embed, nn.Module) else embed, precision, width)
    images = references(pixels.size, pixels.channels).to(device)
    wrapped.examine(images)
    wrapped.require_repeatable()
    with wrapped.frozen():
        with torch.no_grad():
            z = wrapped(images)
        yield wrapped, z


@dataclass(frozen=True, eq=False)
class Block:
    """B images: ``reasons`` (B,) why each cannot be read, "" where it can; ``z`` (n, D) float32 of those that can."""

    z: Tensor
    reasons: tuple[str, ...]


class Blocks:
    """The images of a table, block by block, each named by all that its embeddings depend on.

    identity: of the model and its settings. folder: where finished blocks are kept, None for nowhere. A block is found
    again by its name alone: what was made of other images, or in another way, is never taken for it.
    """

    def __init__(self, pixels: Pixels, identity: str, folder: Path | None = None) -> None:
        self.pixels, self.folder = pixels, folder
        self.parts = torch.split(torch.arange(len(pixels)), BLOCK)
        told = f"{identity} {pixels.size} {pixels.side} {pixels.channels}"
        if pixels.resizing != SQUASHED:
            told += f" {pixels.resizing}"
        self.names = [hashed(told, *(_stamp(pixels, i) for i in part.tolist())) for part in self.parts]

    def embed(self, make: Make, quiet: bool = False) -> Block:
        """All images, those embedded that are not kept already; under torchrun by each process its share.

        Raises HoldfastError where none can be read, and where nothing can be kept in the folder.
        """
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise HoldfastError(f"cannot write {self.folder}: {error.strerror}") from error
        kept = distributed.by_first(
            lambda: [self._kept(name, len(part)) for name, part in zip(self.names, self.parts, strict=True)]
        )
        done = sum(len(block.reasons) for block in kept if block)
        with Progress("embedding", len(self.pixels), done, quiet=quiet) as progress:
            missing = [i for i, block in enumerate(kept) if block is None]

            def work() -> dict[int, Block]:
                share = missing[distributed.portion(len(missing))]
                return {i: self._make(self.names[i], self.parts[i], make, progress) for i in share}

            made = {i: block for part in distributed.collect(work) for i, block in part.items()}
        found = [block or made[i] for i, block in enumerate(kept)]
        readable = [block.z for block in found if len(block.z)]
        if not readable:
            self.remove()
            first = printable(f"{self.pixels.table.name_of(0)} ({found[0].reasons[0]})")
            raise HoldfastError(f"none of the {counted(len(self.pixels), 'image')} can be read; the first is {first}")
        return Block(torch.cat(readable), tuple(reason for block in found for reason in block.reasons))

    def remove(self) -> None:
        """Delete what is kept, and the folder if nothing else is in it."""
        if self.folder is not None:
            for file in (*self.folder.glob("*.npz"), *self.folder.glob(".*.tmp")):
                file.unlink(missing_ok=True)
            with suppress(OSError):
                self.folder.rmdir()

    def _make(self, name: str, part: Tensor, make: Make, progress: Progress) -> Block:
        before = progress.done
        z, _ = make(rows=part, progress=lambda done, _: progress(before + done, len(self.pixels)))
        block = Block(z.float().cpu(), tuple(self.pixels.broken.get(i, "") for i in part.tolist()))
        if self.folder is not None:
            arrays = {"z": block.z.numpy(), "reasons": np.array(block.reasons, np.str_)}
            write_arrays(self.folder / f"{name}.npz", arrays)
        return block

    def _kept(self, name: str, count: int) -> Block | None:
        """A finished block of so many images; None where there is none, or none that can be read."""
        if self.folder is None:
            return None
        with suppress(HoldfastError):
            kept = read_arrays(self.folder / f"{name}.npz", ("z", "reasons"))
            z, reasons = kept["z"], kept["reasons"]
            sound = z.dtype == np.float32 and z.ndim == 2 and reasons.dtype.kind == "U" and reasons.shape == (count,)
            if sound and len(z) == np.count_nonzero(reasons == ""):
                return Block(torch.from_numpy(z), tuple(reasons.tolist()))
        return None


def hashed(*parts: str) -> str:
    """Sixteen hex digits that stand for these texts."""
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:16]


def _stamp(pixels: Pixels, i: int) -> str:
    """What an image is told by: a file by its path, size and time of change, an array's image by its pixels."""
    images = pixels.table.images
    if isinstance(images, np.ndarray):
        return hashlib.sha256(images[i].tobytes()).hexdigest()
    file = images[i].absolute()
    try:
        found = file.stat()
    except OSError:
        return f"{file} is gone"
    return f"{file} {found.st_size} {found.st_mtime_ns}"
