"""Hardness manipulation against an attacker of queries: each image of a batch in turn, alone, is perturbed."""

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
        still = triplets.take(batch.embeddings)[:, POSITIVE:]
        return RaiseHardness(self.destination(batch, generator), still=still)


class PerturbedQueries(AdversarialTriplets):
    """Every image of the batch is an anchor, not the first of each group alone, and only anchors are perturbed.

    An attacker of queries can do no more. A step perturbs each image of the batch once, HM three for each group.
    """

    def __init__(self, source: Sampler, learning: Learning, pgd: PGD, destination: Destination) -> None:
        super().__init__(source, learning, pgd, ReachHardnessByAnchor(destination))

    def step(self, embedder: nn.Module, images: Tensor, batch_of: BatchOf, generator: Generator | None) -> Step:
        return super().step(embedder, images, lambda z: batch_of(z).of_every_image(), generator)
