"""What do the images alone allow? ``python -m benchmarks.ceiling --data fashion-mnist --root FOLDER --eps 8 77``.

Where two queries of different classes are within 2ε (L∞), the image halfway between them is in reach from both. What a
system finds for it is of the class of one of them at most: no embedder keeps both. The figure is the robust R@1 that no
embedder exceeds, however trained, if all test queries are attacked (Bhagoji, Cullina & Mittal, "Lower Bounds on
Adversarial Robustness from Optimal Transport", NeurIPS 2019).
"""

import argparse

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching
from torch import Tensor

from benchmarks.side_by_side import tell
from holdfast.data import DATASETS, Pixels, held_out
from holdfast.runs.config import resolve_config
from holdfast.util.progress import Progress

LEVELS = 255


def gaps(images: Tensor, labels: Tensor, most: int) -> npt.NDArray[np.int64]:
    """The pairs of images of different classes that are at most ``most`` apart (L∞).

    images: int16 (N, K), labels: (N,). Returns (P, 3) rows of two indices, the lower one first, and their distance.
    """
    found = []
    with Progress("comparing images", len(images)) as progress:
        for i, image in enumerate(images):
            distances = (images[i + 1 :] - image).abs_().amax(1)
            near = ((distances <= most) & (labels[i + 1 :] != labels[i])).nonzero()[:, 0]
            found.append(torch.stack([torch.full_like(near, i), near + i + 1, distances[near].long()], 1))
            progress.advance()
    return torch.cat(found).numpy()


def ceiling(pairs: npt.NDArray[np.int64], n: int) -> float:
    """The share of n queries that can be kept at most if of each of the ``pairs`` ((P, 2)) one is lost.

    The largest sum of n weights in [0, 1] of which no pair's exceed 1: n less half of the largest matching in which
    each query stands on both sides.
    """
    rows, columns = np.concatenate([pairs, pairs[:, ::-1]]).T
    graph = csr_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(n, n))
    return float(1 - (maximum_bipartite_matching(graph) >= 0).sum() / (2 * n))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATASETS, default="digits")
    parser.add_argument("--root", help="where the data set lies")
    parser.add_argument("--eps", type=int, nargs="+", default=[8, 16, 32, 77], help="radii in units of 1/255")
    options = parser.parse_args()
    size = resolve_config({"data.name": options.data}).data.size
    pixels = Pixels(held_out(options.data, options.root), size, channels=DATASETS[options.data].channels)
    queries = torch.from_numpy(pixels.table.is_query).nonzero()[:, 0]
    images = pixels.read(queries)[0].mul_(LEVELS).round_().to(torch.int16).flatten(1)
    found = gaps(images, torch.from_numpy(pixels.table.labels)[queries], 2 * max(options.eps))
    for eps in options.eps:
        pairs = found[found[:, 2] <= 2 * eps, :2]
        near = len(np.unique(pairs))
        tell(
            f"ceiling of robust R@1 at {eps}/255",
            100 * ceiling(pairs, len(images)),
            "%",
            queries=len(images),
            near=near,
        )


if __name__ == "__main__":
    main()
