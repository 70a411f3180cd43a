"""A quick look at how far an attacker gets: R@1 under an embedding shift.

It serves validation; a score to publish comes from a whole evaluation.
"""

import torch
from torch import Generator, Tensor, nn

from holdfast.core.fused import Replica
from holdfast.core.gallery import Gallery, Queries
from holdfast.core.objectives import ShiftEmbedding
from holdfast.core.pgd import PGD, Ball, crossing
from holdfast.metrics.retrieval import evaluate

BLOCK = 128
STEPS = 10


def adversary(ball: Ball) -> PGD:
    """A short descent that can cross the ball: 10 steps of 1/4 of its radius, from a small random start."""
    return PGD(ball, crossing(ball.eps, STEPS), STEPS, start=ball.eps / STEPS)


def shifted(embedder: nn.Module, images: Tensor, pgd: PGD, generator: Generator | None = None) -> Tensor:
    """Embeddings ``(Q, D)`` of images ``(Q, C, H, W)``, each moved as far from its clean embedding as PGD can.

    ``pgd`` needs a random start: at the clean image the shift has no gradient.
    """
    moved, attacked = [], Replica(embedder, images)
    with attacked.still(), torch.no_grad():
        for block in torch.split(images, BLOCK):
            goal = ShiftEmbedding(attacked(block)[:, None])
            moved.append(attacked(pgd(attacked, block[:, None], goal, generator=generator).squeeze(1)))
    return torch.cat(moved)


def shifted_recall(
    embedder: nn.Module,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    gallery: Gallery,
    *,
    pgd: PGD,
    generator: Generator,
) -> float:
    """R@1 in percent of queries under an embedding shift (ES, Zhou et al. 2020) against a clean gallery."""
    z = shifted(embedder, images, pgd, generator)
    return evaluate(Queries(z, labels, ids), gallery, ks=(1,))["R@1"]
