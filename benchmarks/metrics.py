"""How long the benign metrics take: ``python -m benchmarks.metrics``.

Embeddings are synthetic: classes as directions, kept by each item to a random degree, so that some positives are far.
Beside the library, in turns: a matrix product of the size, numpy's sort of as many rows, and a loop over a sample of
the queries, whose time is scaled to all of them and whose values must be the library's.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.memory import peak
from benchmarks.side_by_side import REPEATS, Bar, interleaved, row
from holdfast.core.gallery import Gallery, Queries
from holdfast.metrics.clustering import kmeans, nmi
from holdfast.metrics.retrieval import RECALLS, per_query, retrieval_metrics

ROWS = 256
"""Queries of one block of the matrix product."""


def embeddings(items: int, dimensions: int, classes: int) -> tuple[Tensor, Tensor]:
    """Unit embeddings (items, dimensions) and their labels (items,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(items) % classes
    centres = torch.randn(classes, dimensions, generator=generator)
    points = torch.randn(items, dimensions, generator=generator)
    points.addcmul_(centres[labels], torch.rand(items, 1, generator=generator))
    return normalize(points, dim=1, out=points), labels


def bare_gemm(asked: Tensor, points: Tensor) -> None:
    """All inner products of those that are asked with all points, block by block into the same memory."""
    block = points.new_empty(ROWS, len(points))
    for queries in torch.split(asked, ROWS):
        torch.mm(queries, points.T, out=block[: len(queries)])


def naive(points: Tensor, labels: Tensor, queries: Tensor) -> dict[str, list[float]]:
    """The metrics of some queries, one query at a time, from its whole ranking; no ties are expected."""
    scores: dict[str, list[float]] = {}
    for query in queries.tolist():
        distances = (points - points[query]).norm(dim=1)
        order = distances.argsort()
        matches = labels[order[order != query]] == labels[query]
        relevant = int(matches.sum())
        precision = matches.cumsum(0) / torch.arange(1, len(matches) + 1)
        for k in RECALLS:
            scores.setdefault(f"R@{k}", []).append(float(matches[:k].any()))
        scores.setdefault("mAP", []).append((precision * matches).sum().item() / relevant)
        scores.setdefault("mAP@R", []).append((precision * matches)[:relevant].sum().item() / relevant)
    return scores


def timed(work: Callable[[], object]) -> float:
    """CPU seconds of ``work``."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--queries", type=int, help="the first so many of the items ask; by default all")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--clusters", type=int, help="also cluster into so many, and take the NMI")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--sample", type=int, default=200, help="queries of the loop")
    options = parser.parse_args()

    points, labels = embeddings(options.items, options.dim, options.classes)
    ids = torch.arange(len(points))
    asked = options.queries or options.items
    queries, gallery = Queries(points[:asked], labels[:asked], ids[:asked]), Gallery(points, labels, ids)
    sample = torch.linspace(0, asked - 1, options.sample).long()
    scale = asked / options.sample

    products = (points[sample] @ points.T).numpy()

    fast, slow = per_query(queries, gallery), naive(points, labels, sample)
    apart = max((fast[name][sample] - torch.tensor(values)).abs().max().item() for name, values in slow.items())
    if apart > 1e-4:
        raise SystemExit(f"the loop and the library disagree by {apart:.2g}")

    seconds = interleaved(
        {
            "metrics": lambda: retrieval_metrics(queries, gallery),
            "gemm": lambda: bare_gemm(points[:asked], points),
            "sort": lambda: [np.sort(one) for one in products],
            "loop": lambda: naive(points, labels, sample),
        },
        options.repeats,
    )
    seconds |= {name: seconds[name] * scale for name in ("sort", "loop")}
    facts = {
        "items": options.items,
        "queries": asked,
        "dim": options.dim,
        "classes": options.classes,
        "sample": options.sample,
        "apart": apart,
        "cpu_seconds": seconds,
        "peak_mb": peak(lambda: retrieval_metrics(queries, gallery)),
        "numpy": np.__version__,
    }
    size = f"benign metrics, {options.items:,} x {options.dim}, {options.classes:,} classes"
    row(f"{size}: speed-up over a loop over queries", seconds["loop"] / seconds["metrics"], "x", Bar(least=20), **facts)
    row(f"{size}: time against the matrix product", seconds["metrics"] / seconds["gemm"], "x", Bar(most=2.5), **facts)
    print(
        f"CPU seconds: metrics {seconds['metrics']:.2f}, matrix product {seconds['gemm']:.2f}, and of {options.sample} "
        f"queries, scaled to all: numpy's sort {seconds['sort']:.2f}, loop {seconds['loop']:.1f}"
    )
    if options.clusters:
        clustering(points, labels, options.clusters)


def clustering(points: Tensor, labels: Tensor, clusters: int) -> None:
    """Print how long k-means and the NMI take."""
    start = timed(lambda: kmeans(points, clusters, iterations=0))
    iteration = (timed(lambda: kmeans(points, clusters, iterations=2)) - start) / 2
    seconds: list[float] = []
    megabytes = peak(lambda: seconds.append(timed(lambda: nmi(points, labels, clusters))))
    print(
        f"k-means with {clusters:,} clusters: {start:.2f} s to start, {iteration:.2f} s per iteration; "
        f"NMI {seconds[0]:.2f} s, {megabytes:.0f} MB (CPU seconds)"
    )


if __name__ == "__main__":
    main()
