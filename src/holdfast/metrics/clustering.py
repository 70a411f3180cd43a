"""How well clusters of the embeddings match the classes: k-means and normalised mutual information."""

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn.functional import embedding_bag

from holdfast.core.batching import checked, full_precision, rows_per_block
from holdfast.util.errors import HoldfastError
from holdfast.util.text import counted

SEEDING_ROUNDS = 128
"""Most rounds in which starting centres are drawn; with as many clusters or fewer the seeding is k-means++."""


def nmi(embeddings: Tensor, labels: Tensor, clusters: int | None = None, seed: int = 0) -> float:
    """Normalised mutual information of a k-means clustering and the classes, in percent.

    Mutual information over the arithmetic mean of the two entropies (Manning et al., 2008), as metric-learning papers
    report it. 100: the clusters are the classes; 0: they know nothing of them. It depends on the k-means seed.

    Args:
        embeddings: (N, D) floating point.
        labels: (N,) integer classes.
        clusters: how many; by default as many as there are classes.
    """
    if labels.shape != embeddings.shape[:1]:
        raise HoldfastError(
            f"{counted(len(embeddings), 'embedding')} need as many labels; got shape {tuple(labels.shape)}"
        )
    found = kmeans(embeddings, len(torch.unique(labels)) if clusters is None else clusters, seed)
    return 100 * float(normalized_mutual_info_score(labels.cpu().numpy(), found.cpu().numpy()))


def kmeans(points: Tensor, clusters: int, seed: int = 0, iterations: int = 20) -> Tensor:
    """Lloyd's k-means in Euclidean distance.

    Starting centres are drawn as in k-means++ (Arthur & Vassilvitskii, 2007), beyond :data:`SEEDING_ROUNDS` clusters
    several at a time. A cluster left empty restarts at one of the points farthest from their centres. It ends when no
    point changes its cluster, or after ``iterations`` updates of the centres.

    Args:
        points: (N, D) floating point.
        clusters: 1 to N.
        seed: fixes the result on a given device.

    Returns:
        (N,) int64 cluster of each point.
    """
    points = checked(points)
    if not 1 <= clusters <= len(points):
        raise HoldfastError(
            f"{counted(len(points), 'point')} cannot form {counted(clusters, 'cluster')}; allowed: 1 to {len(points)}"
        )
    with full_precision(points.device):
        points = points - points.median(dim=0).values  # shorter vectors, smaller rounding errors
        norms = points.square().sum(1)
        centres = points[_seeds(points, norms, clusters, seed)]
        cluster, distance = _assign(points, norms, centres)
        for _ in range(iterations):
            sizes = cluster.bincount(minlength=clusters)
            centres = embedding_bag(cluster.argsort(stable=True), points, sizes.cumsum(0) - sizes, mode="sum")
            centres /= sizes.clamp(min=1)[:, None]
            empty = (sizes == 0).nonzero().flatten()
            centres[empty] = points[distance.topk(len(empty)).indices]
            previous = cluster
            cluster, distance = _assign(points, norms, centres)
            if cluster.equal(previous):
                break
    return cluster


def _seeds(points: Tensor, norms: Tensor, clusters: int, seed: int) -> Tensor:
    """Indices (clusters,) of distinct points, drawn with probabilities ∝ squared distance to the nearest seed."""
    generator = torch.Generator().manual_seed(seed)
    per_round = -(-(clusters - 1) // SEEDING_ROUNDS)
    chosen = torch.randint(len(points), (1,), generator=generator).to(points.device)
    nearest = _assign(points, norms, points[chosen])[1]
    while len(chosen) < clusters:
        # the largest weight / Exp(1) draw without replacement (Efraimidis & Spirakis, 2006)
        waiting = torch.empty(len(points), dtype=torch.float64).exponential_(generator=generator)
        keys = nearest / waiting.to(points.device)
        keys[chosen] = -1
        drawn = keys.topk(min(per_round, clusters - len(chosen))).indices
        chosen = torch.cat([chosen, drawn])
        nearest = nearest.minimum(_assign(points, norms, points[drawn])[1])
    return chosen


def _assign(points: Tensor, norms: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centre of each point and its squared distance, two (N,), given the points' squared ``norms``."""
    half_norms = centres.square().sum(1) / 2
    blocks = torch.split(points, rows_per_block(2 * len(centres) * points.element_size()))
    nearest = [torch.addmm(half_norms, block, centres.T, alpha=-1).min(dim=1) for block in blocks]
    distance = norms + 2 * torch.cat([one.values for one in nearest])
    return torch.cat([one.indices for one in nearest]), distance.clamp_(min=0)
