"""The smoothed search: its answer is the class that comes first for most noisy copies ``x + n`` of a query ``x``.

``n ~ N(0, σ² I)``; Cohen et al., ICML 2019. docs/concepts/certified.md derives the radius.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from holdfast.attacks.base import recall_at_1
from holdfast.core.gallery import Queries
from holdfast.evaluation.records import Record, Records
from holdfast.evaluation.runner import Target, generators_of
from holdfast.util.errors import HoldfastError, foreign
from holdfast.util.progress import Progress

BLOCK = 256
"""Noisy copies of a query that are embedded at once."""
FEW = 8
"""Queries between two entries of the records."""

Make = Callable[[Queries, Tensor, list[Generator]], Iterable[Record]]
"""From queries (n,), their images (n, C, H, W) and a generator for each to their records."""


def least_probability(hits: int, draws: int, alpha: float) -> float:
    """The lower bound of a probability, too high with one of at most ``alpha`` (Clopper & Pearson, one-sided)."""
    from scipy.special import betaincinv  # noqa: PLC0415 (slow to import, and only needed here)

    return float(betaincinv(hits, draws - hits + 1, alpha)) if hits else 0.0


def certified_radius(probability: float, sigma: float) -> float:
    """``σ Φ⁻¹(p)``: in which L2 radius an answer holds that comes with a probability of at least ``p``; 0 up to 1/2."""
    p = torch.tensor(probability, dtype=torch.float64)
    return max(0.0, sigma * float(torch.special.ndtri(p)))


def noise_like(image: Tensor, sigma: float, draws: int, generator: Generator) -> Tensor:
    """N(0, σ² I), (draws, C, H, W), for an image (C, H, W)."""
    return sigma * torch.randn((draws, *image.shape), generator=generator, device=generator.device).to(image)


@dataclass(frozen=True, eq=False)
class SmoothedSearch:
    """A system under noise of ``sigma``, in units of the pixel range. seed: of all draws, with the query's id."""

    target: Target
    sigma: float
    seed: int = 0

    def hits(self, query: Queries, image: Tensor, draws: int, generator: Generator) -> int:
        """For how many noisy copies of an image (C, H, W) in [0, 1] only images of the query's class come first.

        query: one. Noisy pixels are not clamped: the certificate needs noise that is Gaussian. A model may draw random
        numbers: its votes are then over these as well, and the certificate holds as it is.
        """
        hits = 0
        with torch.no_grad(), self.target.model.seeded(generator.initial_seed()):
            for first in range(0, draws, BLOCK):
                noise = noise_like(image, self.sigma, min(BLOCK, draws - first), generator)
                copies = query.take(query.ids.new_zeros(len(noise)))
                found = recall_at_1(self.target.model(image + noise), copies, self.target.system)
                hits += int((found == 100).sum())
        return hits

    def record(self, name: str, queries: Queries, make: Make, records: Records, progress: Progress) -> list[Record]:
        """Make the records of each query, :data:`FEW` at a time, and go on where there are some; all of them."""
        ids, model, table = queries.ids.tolist(), self.target.model, self.target.pixels.table
        records.check(name, ids)
        done = len(records.of(name))
        progress.advance(by=done)
        for first in range(done, len(ids), FEW):
            part = queries.take(torch.arange(first, min(first + FEW, len(ids)), device=queries.ids.device))
            began, forward, backward = time.monotonic(), model.forward, model.backward
            images, readable = self.target.pixels.read(part.ids.cpu())
            if not readable.all():
                raise HoldfastError(f"{table.name_of(int(part.ids[~readable][0]))} can no longer be read")
            place = f"smoothing fails on the images from {table.name_of(ids[first])} on"
            with foreign(place, "what was finished before is kept: mend the model, and repeat the call"):
                made = self._made(name, part, images.to(part.embeddings.device), make)
            passes = {"forward": model.forward - forward, "backward": model.backward - backward}
            records.add(name, made, {**passes, "seconds": time.monotonic() - began})
            progress.advance(by=len(made))
        return records.of(name)

    def _made(self, name: str, queries: Queries, images: Tensor, make: Make) -> list[Record]:
        """The records of a few queries, of each rank its share."""
        generators = generators_of(name, self.seed, queries.ids.tolist())

        def work(place: slice) -> list[Record]:
            some = queries.take(torch.arange(len(images), device=images.device)[place])
            return [*make(some, images[place], generators[place])] if len(some.ids) else []

        return [one for part in self.target.shared(len(images), work) for one in part]


def record_of(query: Queries, before: dict[str, float], after: dict[str, float], moved: float = 0.0) -> Record:
    """The record of one query."""
    return {"id": int(query.ids), "chosen": [], "before": before, "after": after, "moved": moved}
