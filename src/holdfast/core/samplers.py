"""Seven ways to draw one triplet per anchor of a batch. A sampler is a function ``(batch, generator) -> Triplets``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from holdfast.core.distance import matrix
from holdfast.core.triplets import Triplets
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

NEAREST_WEIGHED, FARTHEST_WEIGHED = 0.5, 1.4


@dataclass(frozen=True)
class EmbeddedBatch:
    """Embedded images to draw triplets from.

    embeddings: ``(B, D)`` on the unit sphere, without gradient.
    labels: ``(B,)``.
    anchors: ``(T,)`` positions in the batch; by default every second image, which is how pair batches list them.

    Raises HoldfastError when an anchor has no second image of its class, or the batch holds one class only.
    """

    embeddings: Tensor
    labels: Tensor
    anchors: Tensor

    @classmethod
    def of(cls, embeddings: Tensor, labels: Tensor, anchors: Tensor | None = None) -> "EmbeddedBatch":
        """A checked batch, with the default anchors where none are named."""
        if anchors is None:
            anchors = torch.arange(0, len(labels), 2, device=labels.device)
        batch = cls(embeddings.detach(), labels, anchors)
        if len(labels) != len(embeddings):
            raise HoldfastError(f"{counted(len(embeddings), 'image')} came with {counted(len(labels), 'label')}")
        if not len(anchors):
            raise HoldfastError("the batch names no anchors; give it at least two images of one class")
        alone = ~batch.same.any(dim=1)
        if alone.any():
            raise HoldfastError(
                f"{int(alone.sum())} of {counted(len(anchors), 'anchor')} have no second image of their class in the "
                f"batch (first: position {int(anchors[alone][0])}, label {int(labels[anchors[alone][0]])}); "
                "draw batches with PairBatches, or name anchors that have a mate"
            )
        if not batch.other.any(dim=1).all():
            raise HoldfastError(
                f"the batch is of one class, all of its {counted(len(labels), 'image')}; triplets need two"
            )
        return batch

    def of_every_image(self) -> "EmbeddedBatch":
        """The same images, and each of them an anchor."""
        return self.of(self.embeddings, self.labels, torch.arange(len(self.labels), device=self.labels.device))

    @cached_property
    def distances(self) -> Tensor:
        """Distance of each anchor to each image, ``(T, B)``."""
        return matrix(self.embeddings[self.anchors], self.embeddings)

    @cached_property
    def same(self) -> Tensor:
        """True where an image is of the anchor's class and not the anchor itself, ``(T, B)``."""
        mask = self.labels[self.anchors, None] == self.labels
        return mask.scatter(1, self.anchors[:, None], False)

    @cached_property
    def other(self) -> Tensor:
        """True where an image is of another class than the anchor, ``(T, B)``."""
        return self.labels[self.anchors, None] != self.labels

    @cached_property
    def partner(self) -> Tensor:
        """Each anchor's next image of its class in batch order, wrapping round: the pair's other image, ``(T,)``."""
        ahead = torch.arange(len(self.labels), device=self.labels.device) - self.anchors[:, None]
        steps = ahead.remainder(len(self.labels)).masked_fill(~self.same, len(self.labels))
        return steps.argmin(dim=1)


Sampler = Callable[[EmbeddedBatch, Generator | None], Triplets]


def random(batch: EmbeddedBatch, generator: Generator | None = None) -> Triplets:
    """The pair's other image, and an image of another class drawn uniformly."""
    return Triplets(batch.anchors, batch.partner, _choose(batch.other, generator))


def semihard(batch: EmbeddedBatch, generator: Generator | None = None, margin: float = 0.2) -> Triplets:
    """A negative farther than the positive by less than the margin (Schroff et al. 2015); if none, any other class."""
    near = batch.distances.gather(1, batch.partner[:, None])
    inside = (batch.distances > near) & (batch.distances < near + margin)
    return Triplets(batch.anchors, batch.partner, _choose(_prefer(batch.other & inside, batch.other), generator))


def softhard(batch: EmbeddedBatch, generator: Generator | None = None) -> Triplets:
    """Positives farther than the nearest negative, negatives nearer than the farthest positive (Roth et al. 2020)."""
    return _softhard(batch, generator, otherwise=batch.same)


def softhard_or_anchor(batch: EmbeddedBatch, generator: Generator | None = None) -> Triplets:
    """As :func:`softhard`; where no positive is farther than the nearest negative, the anchor is drawn too, as its own
    positive. The code released with Zhou & Patel (2022), robrank, draws like this."""
    return _softhard(batch, generator, otherwise=~batch.other)


def distance_weighted(batch: EmbeddedBatch, generator: Generator | None = None) -> Triplets:
    """A negative drawn with weight ``1 / q(d)``, ``q`` the density of distances on the sphere (Wu et al. 2017, eq. 4).

    Distances are clipped to [0.5, 1.4], the range in which the authors weigh: nearer ones would take all the
    weight, and beyond 1.4 the weight would rise again.
    """
    d = batch.distances.clamp(NEAREST_WEIGHED, FARTHEST_WEIGHED)
    dim = batch.embeddings.shape[1]
    log_weight = (2 - dim) * d.log() + (3 - dim) / 2 * (1 - d.square() / 4).log()
    return Triplets(batch.anchors, batch.partner, _choose(batch.other, generator, log_weight))


def hardest(batch: EmbeddedBatch, generator: Generator | None = None) -> Triplets:
    """The pair's other image, and the nearest image of another class."""
    nearest = batch.distances.masked_fill(~batch.other, torch.inf).argmin(dim=1)
    return Triplets(batch.anchors, batch.partner, nearest)


def easy_positive(batch: EmbeddedBatch, generator: Generator | None = None) -> Triplets:
    """The nearest of the class and the nearest of another: these decide the first result (Xuan et al., WACV 2020)."""
    nearest = batch.distances.masked_fill(~batch.same, torch.inf).argmin(dim=1)
    return Triplets(batch.anchors, nearest, hardest(batch).negative)


SAMPLERS: dict[str, Sampler] = {
    "R": random,
    "M": semihard,
    "S": softhard,
    "D": distance_weighted,
    "H": hardest,
    "E": easy_positive,
    "A": softhard_or_anchor,
}
"""By the letter that stands for it in a recipe: random, semihard, softhard, distance-weighted, hardest, easy positive,
and softhard or the anchor."""


def _softhard(batch: EmbeddedBatch, generator: Generator | None, otherwise: Tensor) -> Triplets:
    """otherwise: images (T, B) to draw a positive from where none is farther than the nearest negative."""
    nearest = batch.distances.masked_fill(~batch.other, torch.inf).amin(dim=1, keepdim=True)
    farthest = batch.distances.masked_fill(~batch.same, -torch.inf).amax(dim=1, keepdim=True)
    positives = _prefer(batch.same & (batch.distances > nearest), otherwise)
    negatives = _prefer(batch.other & (batch.distances < farthest), batch.other)
    return Triplets(batch.anchors, _choose(positives, generator), _choose(negatives, generator))


def _prefer(wanted: Tensor, fallback: Tensor) -> Tensor:
    """Row by row the wanted mask where it holds anything, else the fallback."""
    return torch.where(wanted.any(dim=1, keepdim=True), wanted, fallback)


def _choose(mask: Tensor, generator: Generator | None, log_weight: Tensor | None = None) -> Tensor:
    """One column per row of the mask, with probability proportional to ``exp(log_weight)`` (uniform by default).

    The largest of ``log_weight - log(exponential noise)`` is such a draw; it needs no normalisation.
    """
    device = generator.device if generator is not None else mask.device
    noise = torch.empty(mask.shape, device=device, dtype=torch.float64).exponential_(generator=generator)
    score = -noise.log().to(mask.device)
    if log_weight is not None:
        score = score + log_weight
    return score.masked_fill(~mask, -torch.inf).argmax(dim=1)
