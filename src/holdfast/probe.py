"""A quick look at how far an attacker gets: the hardness reached, and R@1 under an embedding shift.

It serves validation and the demo; a score to publish comes from a whole evaluation.
"""

import torch
from torch import Generator, Tensor, nn

from holdfast.frozen import frozen
from holdfast.goals import HARDEST, RaiseHardness, ShiftEmbedding
from holdfast.perturb import PGD, Ball
from holdfast.retrieval import Gallery, Queries, evaluate
from holdfast.samplers import Batch, random
from holdfast.triplets import hardness

BLOCK = 128
STEPS = 10
REACH = 2.5


def adversary(ball: Ball) -> PGD:
    """A short descent that can cross the ball: 10 steps of 1/4 of its radius, from a small random start."""
    return PGD(ball, REACH * ball.eps / STEPS, STEPS, start=ball.eps / STEPS)


def shifted(embedder: nn.Module, images: Tensor, pgd: PGD, generator: Generator | None = None) -> Tensor:
    """Embeddings ``(Q, D)`` of images ``(Q, C, H, W)``, each moved as far from its clean embedding as PGD can.

    ``pgd`` needs a random start: at the clean image the shift has no gradient.
    """
    moved = []
    with frozen(embedder), torch.no_grad():
        for block in torch.split(images, BLOCK):
            goal = ShiftEmbedding(embedder(block)[:, None])
            moved.append(embedder(pgd(embedder, block[:, None], goal, generator=generator).squeeze(1)))
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


def reachable_hardness(
    embedder: nn.Module, images: Tensor, labels: Tensor, pgd: PGD, generator: Generator
) -> tuple[float, float]:
    """Mean hardness of random triplets of the images, clean and raised as far as PGD can, both in [-2, 2].

    Every image with a second one of its class serves as an anchor.
    """
    with frozen(embedder), torch.no_grad():
        z = torch.cat([embedder(block) for block in torch.split(images, BLOCK)])
        mates = (labels[:, None] == labels).sum(1) > 1
        batch = Batch.of(z, labels, mates.nonzero().squeeze(1))
        triplets = random(batch, generator)
        clean = triplets.take(z)
        groups = triplets.take(images)
        raised = [
            hardness(_embed(embedder, pgd(embedder, block, _hardest(block), generator=generator)))
            for block in torch.split(groups, BLOCK)
        ]
    return float(hardness(clean).mean()), float(torch.cat(raised).mean())


def _hardest(groups: Tensor) -> RaiseHardness:
    return RaiseHardness(torch.full((len(groups),), HARDEST, device=groups.device))


def _embed(embedder: nn.Module, groups: Tensor) -> Tensor:
    z: Tensor = embedder(groups.flatten(0, 1))
    return z.view(*groups.shape[:2], -1)
