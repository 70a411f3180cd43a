"""How long the benign metrics take: ``python -m benchmarks.retrieval --items 60502 --clusters 11316``.

Embeddings are synthetic: classes as directions, kept by each item to a random degree, so that some positives are far.
Ratios are of CPU time, which other work on the machine disturbs least; memory is read from Linux's /proc.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from holdfast.clustering import kmeans, nmi
from holdfast.retrieval import evaluate, same_set

SAMPLE = 50
"""Queries that the naive loop ranks; its time is scaled to all."""


def embeddings(items: int, dimensions: int, classes: int) -> tuple[Tensor, Tensor]:
    """Unit embeddings (items, dimensions) and their labels (items,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(items) % classes
    centres = torch.randn(classes, dimensions, generator=generator)
    points = torch.randn(items, dimensions, generator=generator)
    points.addcmul_(centres[labels], torch.rand(items, 1, generator=generator))
    return normalize(points, dim=1, out=points), labels


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall seconds, CPU seconds and the result of ``work``."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def memory(field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak) of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return 1024e-6 * int(next(line for line in status.splitlines() if line.startswith(field)).split()[1])


def peak_memory(work: Callable[[], Any]) -> tuple[float, float, Any, float]:
    """:func:`timed`, and the MB that ``work`` needed at its peak beyond what was there before."""
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    return *timed(work), memory("VmHWM") - before


def bare_gemm(points: Tensor, rows: int = 256) -> None:
    """All inner products, block by block into the same memory."""
    block = points.new_empty(rows, len(points))
    for start in range(0, len(points), rows):
        queries = points[start : start + rows]
        torch.mm(queries, points.T, out=block[: len(queries)])


def naive(points: Tensor, labels: Tensor, queries: int) -> float:
    """Mean average precision of the first ``queries`` items, one at a time."""
    total = 0.0
    for query in range(queries):
        order = (points - points[query]).norm(dim=1).argsort()
        matches = labels[order[order != query]] == labels[query]
        precision = matches.cumsum(0) / torch.arange(1, len(matches) + 1)
        total += precision[matches].mean().item()
    return total / queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--clusters", type=int, default=10)
    options = parser.parse_args()

    points, labels = embeddings(options.items, options.dim, options.clusters)
    evaluate(*same_set(points[:1000], labels[:1000] % 10))  # load and warm what is loaded on first use
    wall, cpu, scores, megabytes = peak_memory(lambda: evaluate(*same_set(points, labels)))
    gemm_wall, gemm_cpu, _ = timed(lambda: bare_gemm(points))
    naive_wall, naive_cpu, _ = timed(lambda: naive(points, labels, SAMPLE))
    scale = options.items / SAMPLE
    start_wall, start_cpu, _ = timed(lambda: kmeans(points, options.clusters, iterations=0))
    two_wall, two_cpu, _ = timed(lambda: kmeans(points, options.clusters, iterations=2))
    nmi_wall, nmi_cpu, information, nmi_megabytes = peak_memory(lambda: nmi(points, labels))

    result = {
        "items": options.items,
        "dim": options.dim,
        "clusters": options.clusters,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "metrics_s": wall,
        "metrics_cpu_s": cpu,
        "gemm_s": gemm_wall,
        "gemm_cpu_s": gemm_cpu,
        "naive_s": naive_wall * scale,
        "naive_cpu_s": naive_cpu * scale,
        "metrics_to_gemm": cpu / gemm_cpu,
        "naive_to_metrics": naive_cpu * scale / cpu,
        "metrics_peak_mb": megabytes,
        "kmeans_start_s": start_wall,
        "kmeans_start_cpu_s": start_cpu,
        "kmeans_iteration_s": (two_wall - start_wall) / 2,
        "kmeans_iteration_cpu_s": (two_cpu - start_cpu) / 2,
        "nmi_s": nmi_wall,
        "nmi_cpu_s": nmi_cpu,
        "nmi_peak_mb": nmi_megabytes,
        "R@1": scores["R@1"],
        "mAP": scores["mAP"],
        "NMI": information,
    }
    print(json.dumps({name: round(value, 3) if isinstance(value, float) else value for name, value in result.items()}))
    print(
        f"{options.items:,} x {options.dim}: metrics {wall:.1f} s = {result['metrics_to_gemm']:.2f} x the bare GEMM "
        f"({gemm_wall:.1f} s), {result['naive_to_metrics']:.0f} x faster than a loop over queries, "
        f"{megabytes:.0f} MB at peak; NMI with {options.clusters:,} clusters {nmi_wall:.1f} s "
        f"({result['kmeans_iteration_s']:.2f} s per iteration, {start_wall:.1f} s to start), {nmi_megabytes:.0f} MB"
    )


if __name__ == "__main__":
    main()
