"""One training step of ``HM[S,g_LGA]&ICS`` as research code writes it: what the library's step is measured against.

All triplets pass through the network at every step of the descent, parameter gradients are computed and thrown away,
triplets are mined anchor by anchor, and everything is float32. It is also the tests' oracle.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from holdfast.core.pgd import PGD
from holdfast.defense.base import Learning
from holdfast.models.backbones.c2f2 import C2F2
from holdfast.models.embedder import Embedder


class NaiveEmbedder(Embedder):
    """The same weights and the same function, as papers write it.

    Convolutions lie in torch's default memory layout, and C2F2 rectifies before it pools.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(embedder.config)
        self.to(embedder.mean).load_state_dict(embedder.state_dict())
        self.backbone.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        x = (images - self.mean) / self.std
        z = _c2f2(self.backbone, x) if isinstance(self.backbone, C2F2) else self.backbone(x)
        return F.normalize(z, dim=-1)


@dataclass(frozen=True)
class NaiveStep:
    """The ``loss`` to call ``backward()`` on, the perturbed images ``(T, 3, C, H, W)``, and their hardness ``(T,)``."""

    loss: Tensor
    images: Tensor
    hardness: Tensor


def naive_step(
    embedder: nn.Module,
    images: Tensor,
    labels: Tensor,
    anchors: Tensor,
    *,
    destination: float,
    pgd: PGD,
    learning: Learning,
    triplets: Tensor | None = None,
    early_stop: bool = False,
    generator: Generator | None = None,
) -> NaiveStep:
    """One step on a batch, toward the hardness ``destination``.

    triplets: ``(T, 3)`` positions of anchor, positive and negative; by default they are mined.
    early_stop: end the descent once every triplet has reached the destination, as the authors' code does.
    """
    embedder.eval()
    if triplets is None:
        with torch.no_grad():
            clean = embedder(images)
        triplets = softhard(clean, labels, anchors, generator)
    benign = images[triplets]
    perturbed = raise_hardness(embedder, benign, destination, pgd, early_stop)
    embedder.train()
    shifted = embed_groups(embedder, perturbed)
    a, p = embed_groups(embedder, benign[:, :2]).unbind(1)
    reached = hardness(shifted)
    triplet = (reached + learning.margin).clamp(min=0).mean()
    structure = ((a - shifted[:, 0]).norm(dim=1) - (a - p).norm(dim=1)).clamp(min=0).mean()
    return NaiveStep(triplet + learning.structure * structure, perturbed, reached.detach())


def raise_hardness(embedder: nn.Module, benign: Tensor, destination: float, pgd: PGD, early_stop: bool) -> Tensor:
    """The paper's ``argmin max(0, H_D - H)^2`` over the L-infinity ball, for triplets ``(T, 3, C, H, W)``."""
    images = benign.clone()
    for _ in range(pgd.steps):
        images.requires_grad_()
        reached = hardness(embed_groups(embedder, images))
        if early_stop and bool((reached >= destination).all()):
            break
        cost = ((destination - reached).clamp(min=0) ** 2).sum()
        cost.backward()  # type: ignore[no-untyped-call]
        embedder.zero_grad()
        assert images.grad is not None
        images = images.detach() - pgd.step * images.grad.sign()
        images = images.clamp(benign - pgd.ball.eps, benign + pgd.ball.eps).clamp(0, 1)
    return images.detach()


def softhard(z: Tensor, labels: Tensor, anchors: Tensor, generator: Generator | None = None) -> Tensor:
    """A softhard triplet of each anchor, one anchor after the other, ``(T, 3)``."""
    triplets = []
    for anchor in anchors.tolist():
        positives, negatives = softhard_candidates(z, labels, anchor)
        triplets.append([anchor, _one(positives, generator), _one(negatives, generator)])
    return torch.tensor(triplets, device=z.device)


def softhard_candidates(z: Tensor, labels: Tensor, anchor: int) -> tuple[Tensor, Tensor]:
    """Positions of the positives farther than the nearest negative, and of the negatives nearer than the farthest
    positive; where there are none, of all."""
    distance = (z - z[anchor]).norm(dim=1)
    same, other = labels == labels[anchor], labels != labels[anchor]
    same[anchor] = False
    positives = same & (distance > distance[other].min())
    negatives = other & (distance < distance[same].max())
    positives = positives if positives.any() else same
    negatives = negatives if negatives.any() else other
    return positives.nonzero()[:, 0], negatives.nonzero()[:, 0]


def hardness(z: Tensor) -> Tensor:
    """``d(a, p) - d(a, n)`` of embedded triplets, ``(T, 3, D) -> (T,)``."""
    a, p, n = z.unbind(1)
    raised: Tensor = (a - p).norm(dim=1) - (a - n).norm(dim=1)
    return raised


def embed_groups(embedder: nn.Module, images: Tensor) -> Tensor:
    """``(G, R, C, H, W) -> (G, R, D)``."""
    z: Tensor = embedder(images.flatten(0, 1))
    return z.view(*images.shape[:2], -1)


def _c2f2(network: C2F2, x: Tensor) -> Tensor:
    x = F.max_pool2d(F.relu(network.conv1(x)), 2)
    x = F.max_pool2d(F.relu(network.conv2(x)), 2)
    z: Tensor = network.fc2(F.relu(network.fc1(x.flatten(1))))
    return z


def _one(candidates: Tensor, generator: Generator | None) -> int:
    return int(candidates[torch.randint(len(candidates), (), generator=generator)])
