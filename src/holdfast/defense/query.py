"""Hardness manipulation against attacks on queries: every image of a batch is perturbed by itself."""

from torch import Generator, Tensor, nn

from holdfast.core.objectives import RaiseHardness
from holdfast.core.pgd import PGD
from holdfast.core.samplers import EmbeddedBatch, Sampler
from holdfast.core.triplets import ANCHOR, POSITIVE, Triplets
from holdfast.defense.base import AdversarialTriplets, BatchOf, Learning, ReachHardness, Step
from holdfast.defense.destinations import Destination


class ReachHardnessByAnchor(ReachHardness):
    """The anchor alone raises the triplet's hardness to its destination; positive and negative stay as they are."""

    roles = [ANCHOR]  # noqa: RUF012

    def forward(self, batch: EmbeddedBatch, triplets: Triplets, generator: Generator | None) -> RaiseHardness:
        fixed = triplets.take(batch.embeddings)[:, POSITIVE:]
        return RaiseHardness(self.destination(batch, generator), fixed=fixed)


class PerturbedQueries(AdversarialTriplets):
    """Every image of the batch is an anchor, not the first of each group alone, and only anchors are perturbed.

    That is all an attacker of queries can do. A step perturbs each image of the batch once, HM three for each group.
    """

    def __init__(self, source: Sampler, learning: Learning, pgd: PGD, destination: Destination) -> None:
        super().__init__(source, learning, pgd, ReachHardnessByAnchor(destination))

    def step(self, embedder: nn.Module, images: Tensor, batch_of: BatchOf, generator: Generator | None) -> Step:
        return super().step(embedder, images, lambda z: batch_of(z).of_every_image(), generator)
