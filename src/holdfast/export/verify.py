"""Whether an exported model is the one that was trained: the same embeddings, of attacked images too."""

from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Generator, Tensor

from holdfast.core.batching import spread
from holdfast.core.objectives import ShiftEmbedding
from holdfast.core.pgd import PGD, Embed, crossing
from holdfast.core.steps import LInf
from holdfast.data import Pixels
from holdfast.evaluation.protocols import BUDGETS
from holdfast.models.embedder import Embedder
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

EMBEDDINGS = {"float32": 1e-4, "bfloat16": 1e-2}
"""How far a number of an embedding may be off, by what the weights are stored in."""

MOVED = 0.01
"""How far the mean distance that an attack moves an embedding, 0 to 2, may be off."""

STEPS = 8
"""Of the attack, which crosses the radius two and a half times in them, however many."""

BATCHES = (1, 3, 17)
BATCH = 128


@dataclass(frozen=True)
class Compared:
    """One thing found twice: ``before``, with the embedder, and ``after``, with what was exported; None: no number."""

    what: str
    difference: float
    allowed: float
    before: float | None = None
    after: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the two are as near to each other as they have to be; never with NaN."""
        return self.difference < self.allowed


def compared(
    embedder: Embedder, exported: Embed, pixels: Pixels | None, *, precision: str = "float32", queries: int = 16
) -> list[Compared]:
    """Embeddings of generated images, and of ``queries`` images of the test set, if any, as they are and attacked.

    The attack (ES) is made through the embedder, whose gradients an exported file does not have. Each of the two models
    then passes all images once.
    """
    config, allowed = embedder.config, EMBEDDINGS[precision]
    parts = {"generated image": generated(config.channels, config.size)}
    if pixels is not None:
        images, readable = pixels.read(spread(len(pixels), queries))
        if not readable.any():
            raise HoldfastError(f"none of {counted(len(images), 'test image')} tried can be read")
        parts["test image"] = images[readable]
        parts["attacked image"] = attacked(embedder, images[readable], BUDGETS[pixels.table.family or "224"][0])
    images, counts = torch.cat([*parts.values()]), [len(part) for part in parts.values()]
    one, other = (torch.split(z, counts) for z in (passed(embedder, images, (BATCH,)), passed(exported, images)))
    found = [
        Compared(f"embeddings, {counted(len(before), what)}", float((before - after).abs().max()), allowed)
        for what, before, after in zip(parts, one, other, strict=True)
    ]
    if pixels is not None:
        before, after = (float((z[2] - z[1]).norm(dim=1).mean()) for z in (one, other))
        found.append(Compared("distance moved by the attack", abs(before - after), MOVED, before, after))
    return found


def attacked(embedder: Embedder, images: Tensor, eps: float) -> Tensor:
    """Images (n, C, H, W) whose embeddings an attack moved as far as possible."""
    with torch.no_grad():
        clean = embedder(images)
    pgd = PGD(LInf(eps), crossing(eps, STEPS), STEPS, start=0.1 * eps)
    generator = Generator().manual_seed(0)
    return pgd(embedder, images[:, None], ShiftEmbedding(clean[:, None]), generator=generator).squeeze(1)


def generated(channels: int, size: int) -> Tensor:
    """Random images and plain ones, (n, channels, size, size): black, gray, white, a ramp, a chessboard, one dot."""
    noise = torch.rand(sum(BATCHES), channels, size, size, generator=Generator().manual_seed(0))
    plain = torch.stack([torch.full((size, size), shade) for shade in (0.0, 0.5, 1.0)])
    ramp = torch.linspace(0, 1, size).expand(size, size)
    chess = (torch.arange(size)[:, None] + torch.arange(size)) % 2
    dot = torch.zeros(size, size)
    dot[size // 2, size // 2] = 1
    drawn = torch.cat([plain, torch.stack([ramp, ramp.T, chess.float(), dot])])
    return torch.cat([noise, drawn[:, None].expand(-1, channels, -1, -1)])


def passed(embed: Embed, images: Tensor, counts: tuple[int, ...] = BATCHES) -> Tensor:
    """Embeddings (n, D) of images passed so many at a time, in turn."""
    left, parts = images, []
    turns = cycle(counts)
    with torch.no_grad():
        while len(left):
            count = next(turns)
            parts.append(embed(left[:count]))
            left = left[count:]
    return torch.cat(parts)
